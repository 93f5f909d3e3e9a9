"""BLIP (Li et al. 2022) as captioner, matcher and embedder, from checkpoints in the hub's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.core.errors import ModelError
from curate.models.blip.checkpoint import TEXT_TOKENS, Kind, inspect, open_checkpoint
from curate.models.blip.network import Manner, Params, Shape, linear, prepared, read, remembered, see, write
from curate.models.device import Graphed, GraphMemory, out_of_memory_told, place, rows_of_call, upload
from curate.models.protocols import Caption, Compute, Floats, Pixels, Sampling, unit

__all__ = ["BlipCaptioner", "BlipEmbedder", "BlipMatcher", "cleaned", "inspect"]

PROMPT = "a picture of "
TEXT_WORDS = 30
"""Words of a text that are matched, as in pre-training (data/utils.py)."""

_LENGTHS = (12, 20, TEXT_TOKENS)  # a text is padded to the smallest of these that holds it
_TEXT_CHARACTERS = 4096  # characters of a text that are read: more than its tokens can hold, whatever it contains
_MARKS = re.compile(r"[.!\"()*#:;~]")

Tokens = npt.NDArray[np.int64]


def cleaned(text: str) -> str:
    """Return a text as BLIP reads it (`pre_caption` of data/utils.py): lowercase, without these marks, at most 30 words.

    >>> cleaned('A "Dog" (brown): runs.'), cleaned("Людина!  йде")
    ('a dog brown runs', 'людина йде')
    """
    return " ".join(_MARKS.sub(" ", " ".join(text.split())[:_TEXT_CHARACTERS].lower()).split()[:TEXT_WORDS])


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint on its device; `rows` is how many pictures every call has."""

    params: Params = field(repr=False)
    shape: Shape
    tokenizer: Any = field(repr=False)
    device: Any
    rows: int
    memory: GraphMemory = field(default_factory=GraphMemory, repr=False)

    @classmethod
    def of(cls, spec: str, kind: Kind, compute: Compute) -> _Loaded:
        """Read and check a checkpoint. Raises ModelError, OutOfDeviceMemory, ImportError naming a package."""
        checkpoint = open_checkpoint(spec, kind)
        device, dtype = place(compute.precision)
        with out_of_memory_told(spec, compute.batch):
            params = prepared(checkpoint.shape, kind, checkpoint.tensors(kind), device, dtype)
        return cls(params, checkpoint.shape, checkpoint.tokenizer(), device, rows_of_call(device, compute.batch))

    def blocks(self, array: npt.NDArray[Any]) -> Iterator[tuple[int, int, Any]]:
        """Yield (start, rows, block on the device): every block has `rows` rows, the last one is padded with zeros."""
        for start in range(0, len(array), self.rows):
            block = array[start : start + self.rows]
            count = len(block)
            if count < self.rows:
                block = np.concatenate([block, np.zeros((self.rows - count, *block.shape[1:]), block.dtype)])
            yield start, count, upload(block, self.device)

    def graphed(self, call: Callable[..., Any]) -> Graphed:
        """Return a function of tensors that is recorded as a CUDA graph."""
        return Graphed(call, self.memory)

    def remembering(self) -> Graphed:
        """Return the function from pictures to the keys and values that texts look at."""
        return self.graphed(lambda pictures: remembered(self.params, self.shape, see(self.params, self.shape, pictures)))


class BlipCaptioner:
    """Writes captions of pictures, RGB uint8 [n, side, side, 3], after the prompt "a picture of ", which is not part of them."""

    def __init__(self, spec: str, loaded: _Loaded, sampling: Sampling) -> None:
        self.name, self.side, self.sampling = spec, loaded.shape.side, sampling
        self._loaded = loaded
        ids = loaded.tokenizer.encode(PROMPT, add_special_tokens=False).ids
        if 1 + len(ids) + sampling.max_tokens > loaded.shape.positions:
            raise ModelError(f"{spec}: {sampling.max_tokens} tokens and the prompt are more than its {loaded.shape.positions}")
        manner = Manner(upload(np.array([loaded.shape.decode, *ids], np.int64), loaded.device), sampling)
        self._remembering = loaded.remembering()
        self._writing = loaded.graphed(lambda draws, memory: write(loaded.params, loaded.shape, manner, draws, memory))

    @classmethod
    def load(cls, spec: str, sampling: Sampling, compute: Compute) -> BlipCaptioner:
        """Read and check the checkpoint that `spec` names. Raises ModelError, OutOfDeviceMemory, ImportError for a package."""
        return cls(spec, _Loaded.of(spec, "captioner", compute), sampling)

    def captions(self, pictures: Pixels, draws: Floats) -> list[list[str]]:
        """Return k captions of each picture; draws float32 [n, k, at least max_tokens]. Raises OutOfDeviceMemory."""
        return [[one.text for one in several] for several in self.told_captions(pictures, draws)]

    def told_captions(self, pictures: Pixels, draws: Floats) -> list[list[Caption]]:
        """Return the same, each with whether no [SEP] ended it."""
        stop, tokens = self._loaded.shape.stop, self.tokens(pictures, draws)
        return [[Caption(self._text(row), stop not in row) for row in several] for several in tokens.tolist()]

    def tokens(self, pictures: Pixels, draws: Floats) -> Tokens:
        """Return int64 [n, k, max_tokens]: the tokens after the prompt, up to [SEP], padding after it."""
        import torch

        steps, loaded, found = self.sampling.max_tokens, self._loaded, []
        with out_of_memory_told(self.name, loaded.rows):
            for (_, rows, block), (_, _, given) in zip(loaded.blocks(pictures), loaded.blocks(draws[..., :steps]), strict=True):
                memory = self._remembering((block,))
                columns = [self._writing((given[:, number].contiguous(),), (memory,)).clone() for number in range(draws.shape[1])]
                found.append(torch.stack(columns, 1)[:rows])
            if not found:
                return np.empty((0, draws.shape[1], steps), np.int64)
            whole: Tokens = torch.cat(found).cpu().numpy()  # the only synchronisation with the device
        return whole

    def _text(self, tokens: list[int]) -> str:
        shape = self._loaded.shape
        kept = tokens[: tokens.index(shape.stop)] if shape.stop in tokens else tokens
        text: str = self._loaded.tokenizer.decode([token for token in kept if token not in (shape.decode, shape.encode)])
        return text.replace(" ' ", "'").strip()  # as transformers joins what BERT's tokeniser cuts apart


class BlipMatcher:
    """P(match) of texts and pictures, RGB uint8 [n, side, side, 3], by the image-text matching head (ITM).

    The first token of a text is [ENC], as in the authors' training (blip_retrieval.py). Their demo and transformers keep
    [CLS], which the head was never trained on.
    """

    def __init__(self, spec: str, loaded: _Loaded) -> None:
        self.name, self.side = spec, loaded.shape.side
        self._loaded = loaded
        self._remembering = loaded.remembering()
        self._reading = {length: loaded.graphed(self._logits) for length in _LENGTHS}

    @classmethod
    def load(cls, spec: str, compute: Compute) -> BlipMatcher:
        """Read and check the checkpoint that `spec` names. Raises ModelError, OutOfDeviceMemory, ImportError for a package."""
        return cls(spec, _Loaded.of(spec, "matcher", compute))

    def reads(self, text: str) -> bool:
        """Return whether anything is left of a text after cleaning; BLIP's own loader rejects the others."""
        return bool(cleaned(text))

    def match(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(match), 0 to 1, of every text of each picture. Raises OutOfDeviceMemory."""
        logits = self.logits(pictures, texts).astype(np.float64)
        scores = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -700, 700)))
        ends = np.cumsum([0, *map(len, texts)])
        return [scores[start:end].tolist() for start, end in pairwise(ends.tolist())]

    def logits(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> Floats:
        """Return float32 [all texts in order, 2]: the head's logits of no match and of match."""
        import torch

        loaded = self._loaded
        places, found = [np.empty(0, np.int64)], [torch.empty((0, 2), device=loaded.device)]
        encoded = [[self._encoded(text) for text in several] for several in texts]
        first = np.cumsum([0, *map(len, texts)])
        with out_of_memory_told(self.name, loaded.rows):
            for start, rows, block in loaded.blocks(pictures):
                memory = self._remembering((block,))
                pairs = [(row, number) for row in range(rows) for number in range(len(texts[start + row]))]
                for part, logits in self._scored(pairs, [encoded[start + row][number] for row, number in pairs], memory):
                    places.append(np.array([first[start + row] + number for row, number in part], np.int64))
                    found.append(logits)
            whole = torch.cat(found).cpu().numpy()  # the only synchronisation with the device
        out: Floats = np.empty_like(whole)
        out[np.concatenate(places)] = whole
        return out

    def _scored(
        self, pairs: Sequence[tuple[int, int]], encoded: Sequence[list[int]], memory: Any
    ) -> Iterator[tuple[list[tuple[int, int]], Any]]:
        """Yield some of the pairs (row, number) and their logits, until all are done: texts of similar length together."""
        rows, low = self._loaded.rows, 0
        for length, reading in self._reading.items():
            here = [which for which, tokens in enumerate(encoded) if low < len(tokens) <= length]
            low = length
            for at in range(0, len(here), rows):
                part = here[at : at + rows]
                tokens = np.full((rows, length), self._loaded.shape.pad, np.int64)
                tokens[:, 0] = self._loaded.shape.encode  # padding rows attend to one token: a softmax over none is NaN
                owners, counts = np.zeros(rows, np.int64), np.ones(rows, np.int64)
                for row, which in enumerate(part):
                    tokens[row, : len(encoded[which])] = encoded[which]
                    owners[row], counts[row] = pairs[which][0], len(encoded[which])
                given = tuple(upload(array, self._loaded.device) for array in (tokens, counts, owners))
                yield [pairs[which] for which in part], reading(given, (memory,))[: len(part)].clone()

    def _logits(self, tokens: Any, counts: Any, owners: Any, memory: Any) -> Any:
        import torch

        loaded = self._loaded
        mask = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        states = read(loaded.params, loaded.shape, tokens, mask, memory.index_select(2, owners))
        return linear(loaded.params, "itm_head", states[:, 0].float())

    def _encoded(self, text: str) -> list[int]:
        return [self._loaded.shape.encode, *_pieces(self._loaded, text)]


class BlipEmbedder:
    """Pictures and texts in the space of BLIP's contrastive heads (ITC)."""

    def __init__(self, spec: str, loaded: _Loaded) -> None:
        self.name, self.dim = spec, loaded.shape.shared
        self._loaded = loaded
        self._seeing = loaded.graphed(self._seen)
        self._reading = loaded.graphed(self._read)

    @classmethod
    def load(cls, spec: str, compute: Compute) -> BlipEmbedder:
        """Read and check the checkpoint that `spec` names. Raises ModelError, OutOfDeviceMemory, ImportError for a package."""
        return cls(spec, _Loaded.of(spec, "embedder", compute))

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1, of RGB uint8 [n, any side, the same, 3]."""
        from PIL import Image

        size = (self._loaded.shape.side,) * 2
        squashed = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in pixels]
        return self._vectors(self._seeing, np.stack(squashed) if squashed else np.empty((0, *size, 3), np.uint8))

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return float32 [n, dim], each row of length 1."""
        tokens = np.full((len(texts), TEXT_TOKENS), self._loaded.shape.pad, np.int64)
        for row, text in enumerate(texts):
            pieces = _pieces(self._loaded, text)
            tokens[row, : len(pieces) + 1] = [self._loaded.tokenizer.token_to_id("[CLS]"), *pieces]
        return self._vectors(self._reading, tokens)

    def _vectors(self, call: Graphed, array: npt.NDArray[Any]) -> Floats:
        import torch

        with out_of_memory_told(self.name, self._loaded.rows):
            found = [call((block,))[:rows].clone() for _, rows, block in self._loaded.blocks(array)]
            return unit(torch.cat(found).cpu().numpy()) if found else np.empty((0, self.dim), np.float32)

    def _seen(self, pictures: Any) -> Any:
        states = see(self._loaded.params, self._loaded.shape, pictures)
        return linear(self._loaded.params, "vision_proj", states[:, 0].float())

    def _read(self, tokens: Any) -> Any:
        mask = tokens != self._loaded.shape.pad
        mask[:, 0] = True  # padding rows attend to one token
        states = read(self._loaded.params, self._loaded.shape, tokens, mask)
        return linear(self._loaded.params, "text_proj", states[:, 0].float())


def _pieces(loaded: _Loaded, text: str) -> list[int]:
    """Return the word pieces of a cleaned text and [SEP], with room left for one token before them."""
    ids: list[int] = loaded.tokenizer.encode(cleaned(text), add_special_tokens=False).ids[: TEXT_TOKENS - 2]
    return [*ids, loaded.shape.stop]
