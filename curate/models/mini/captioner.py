"""The captioner `mini`: nucleus sampling from a small transformer, in blocks of one size, with a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate.models.mini.features import SIDE, Vision, in_picture_blocks, load_vision, weights_folder
from curate.models.mini.network import END, PAD, POSITIONS, START, UNKNOWN, Params, decode, encode, looked_up, read_weights
from curate.models.protocols import MODEL_ROWS, Caption, Floats, Pixels, Sampling
from curate.models.sampling import next_tokens

FILE = "mini-captioner.safetensors"
KIND = "mini-captioner"

Looks = list[tuple[Any, Any]]


@dataclass(frozen=True)
class MiniCaptioner:
    """Words of a small vocabulary, drawn one by one; the settings are those of `Sampling`.

    `greedy` takes the most likely word each time, without penalty, and ignores the draws.
    """

    vision: Vision = field(repr=False, compare=False)
    params: Params = field(repr=False, compare=False)
    words: tuple[str, ...] = field(repr=False)
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    min_tokens: int = 5
    max_tokens: int = 20
    top_k: int = 50
    greedy: bool = False
    name: str = "mini"
    side: int = SIDE

    @classmethod
    def load(cls, folder: Path | None = None, *, greedy: bool = False) -> MiniCaptioner:
        """Read the weights in `folder`, or those of curate-mini-models. Raises ModelError, ImportError for a package."""
        import torch

        torch.set_num_threads(1)  # a worker process has one core
        arrays, about = read_weights((folder or weights_folder()) / FILE, KIND)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        params = {name: torch.tensor(value, device=device) for name, value in arrays.items()}
        return cls(load_vision(), params, tuple(about["words"]), greedy=greedy)

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.top_p, self.repetition_penalty, self.min_tokens, self.max_tokens, self.top_k)

    def captions(self, pictures: Pixels, draws: Floats) -> list[list[str]]:
        """Return k captions of each picture, RGB uint8 [n, SIDE, SIDE, 3]; draws float32 [n, k, at least max_tokens]."""
        return [[one.text for one in several] for several in self.told_captions(pictures, draws)]

    def told_captions(self, pictures: Pixels, draws: Floats) -> list[list[Caption]]:
        """Return the same, each with whether no END ended it."""
        out: list[list[Caption]] = []
        for start, rows, block in in_picture_blocks(pictures):
            given = np.zeros((MODEL_ROWS, *draws.shape[1:]), np.float32)
            given[:rows] = draws[start : start + rows]
            out += self.written(self.vision.maps(block), given)[:rows]
        return out

    def written(self, maps: Floats, draws: Floats) -> list[list[Caption]]:
        """Return k captions of each map of one block, float32 [MODEL_ROWS, REGIONS, DIM]; draws [MODEL_ROWS, k, tokens]."""
        import torch

        with torch.inference_mode():
            memory = encode(self.params, torch.from_numpy(maps).to(self.params["words"].device))
            looks = looked_up(self.params, memory)
            columns = [self._block(looks, draws[:, number]) for number in range(draws.shape[1])]
        return [list(texts) for texts in zip(*columns, strict=True)]

    def _block(self, looks: Looks, draws: Floats) -> list[Caption]:
        """Return one caption of each picture of a block; draws float32 [MODEL_ROWS, tokens]."""
        import torch

        device = self.params["words"].device
        given, tokens = torch.tensor(draws, device=device), torch.full((MODEL_ROWS, 1), START, device=device)
        ended = torch.zeros(MODEL_ROWS, dtype=torch.bool, device=device)
        past: Looks = []
        for step in range(min(self.max_tokens, POSITIONS)):
            logits = decode(self.params, tokens[:, -1:], looks, past)[:, -1].float()
            logits[:, [PAD, START, UNKNOWN, *([END] if step < self.min_tokens else [])]] = -torch.inf
            chosen = logits.argmax(-1) if self.greedy else next_tokens(self._sampling, logits, tokens, given[:, step])
            chosen = chosen.masked_fill(ended, END)
            tokens = torch.cat([tokens, chosen[:, None]], 1)
            ended |= chosen == END
            if ended.all():
                break
        rows = tokens.tolist()
        return [Caption(" ".join(self.words[token] for token in row if token > UNKNOWN), END not in row) for row in rows]
