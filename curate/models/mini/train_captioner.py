"""Training of the mini captioner: a small transformer on frozen picture features."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.models.efficientnet import DIM
from curate.models.mini.features import REGIONS
from curate.models.mini.network import (
    DECODERS,
    ENCODERS,
    INNER,
    PAD,
    POSITIONS,
    START,
    UNKNOWN,
    WIDTH,
    Arrays,
    Params,
    decode,
    encode,
    looked_up,
)
from curate.models.mini.network import END as STOP

Say = Callable[[str], None]
Captions = Sequence[Sequence[str]]

SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_RARE = 5  # occurrences in the captions that a word needs to be learned
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_IMAGES = 32  # a step, each with all its captions
_BUCKETS = 4
_RATE, _WARM_UP, _DECAY, _CLIP, _DROPOUT, _SMOOTHING, _AVERAGED = 1e-3, 400, 0.05, 1.0, 0.25, 0.1, 0.998


def words_of(text: str) -> list[str]:
    """Return the lowercase words of a caption, without punctuation.

    >>> words_of("A man's T-shirt , blue .")
    ['a', "man's", 't-shirt', 'blue']
    """
    return _WORD.findall(text.lower())


def vocabulary(captions: Captions) -> list[str]:
    """Return the special marks and then the words of captions, the most frequent first."""
    counts = Counter(chain.from_iterable(words_of(text) for text in chain.from_iterable(captions)))
    kept = [word for word, count in counts.items() if count >= _RARE]
    return [*SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))]


def fresh_captioner(words: int, seed: int) -> Params:
    """Return untrained weights of a captioner with that many words."""
    import torch

    torch.manual_seed(seed)
    p: Params = {}

    def matrix(name: str, out: int, into: int) -> None:
        p[f"{name}.weight"] = torch.nn.init.xavier_uniform_(torch.empty(out, into))
        p[f"{name}.bias"] = torch.zeros(out)

    def normed(name: str, width: int = WIDTH) -> None:
        p[f"{name}.weight"], p[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    normed("image.norm", DIM)
    matrix("image.in", WIDTH, DIM)
    p["image.position"] = torch.randn(REGIONS, WIDTH) * 0.02
    p["words"], p["words.bias"] = torch.randn(words, WIDTH) * WIDTH**-0.5, torch.zeros(words)
    p["position"] = torch.randn(POSITIONS, WIDTH) * 0.02
    for name in [*(f"encoder.{n}" for n in range(ENCODERS)), *(f"decoder.{n}" for n in range(DECODERS))]:
        matrix(f"{name}.self.in", 3 * WIDTH, WIDTH)
        matrix(f"{name}.self.out", WIDTH, WIDTH)
        matrix(f"{name}.up", INNER, WIDTH)
        matrix(f"{name}.down", WIDTH, INNER)
        normed(f"{name}.norm1")
        normed(f"{name}.norm2")
        if name.startswith("decoder"):
            matrix(f"{name}.cross.in", WIDTH, WIDTH)
            matrix(f"{name}.cross.memory", 2 * WIDTH, WIDTH)
            matrix(f"{name}.cross.out", WIDTH, WIDTH)
            normed(f"{name}.norm3")
    normed("encoder.norm")
    normed("decoder.norm")
    return p


def _tokens(captions: Sequence[str], index: dict[str, int]) -> npt.NDArray[np.int64]:
    """Return int64 [captions, longest]: start mark, words, end mark, padding."""
    rows = [[START, *(index.get(w, UNKNOWN) for w in words_of(text)[: POSITIONS - 1]), STOP] for text in captions]
    out = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens
    return out


def _step_loss(p: Params, maps: Any, tokens: Any, owners: Any) -> Any:
    """Return the loss of tokens [rows, length] under the pictures `owners` of maps: cross-entropy, labels smoothed."""
    import torch
    from torch.nn import functional

    with torch.autocast("cpu", torch.bfloat16):
        looks, total = looked_up(p, encode(p, maps, _DROPOUT)), 0.0
    lengths = (tokens != PAD).sum(1)
    for rows in lengths.argsort().chunk(_BUCKETS):  # of like length: otherwise half of the work is padding
        part = tokens[rows, : int(lengths[rows].max())]
        mine = [(keys[owners[rows]], values[owners[rows]]) for keys, values in looks]
        with torch.autocast("cpu", torch.bfloat16):
            logits = decode(p, part[:, :-1], mine, [], _DROPOUT).flatten(0, 1).float()
        wanted = part[:, 1:].flatten()
        total += functional.cross_entropy(logits, wanted, ignore_index=PAD, label_smoothing=_SMOOTHING, reduction="sum")
    return total / (lengths - 1).sum()


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Return the share of the learning rate at a step: a straight rise, then a cosine down to nothing."""
    if step < warm_up:
        return (step + 1) / warm_up
    return float(0.5 + 0.5 * np.cos(np.pi * (step - warm_up) / max(1, steps - warm_up)))


def optimiser(p: Params, rate: float, decay: float) -> Any:
    """Return AdamW over all tensors; only matrices decay."""
    import torch

    for tensor in p.values():
        tensor.requires_grad_()
    plain = [tensor for tensor in p.values() if tensor.ndim < 2]
    groups = [{"params": [t for t in p.values() if t.ndim > 1], "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, betas=(0.9, 0.98))


def train_captioner(views: Sequence[Any], captions: Captions, epochs: int, say: Say) -> tuple[Arrays, list[str]]:
    """Return weights and vocabulary learned from maps, `views` of float16 [n, REGIONS, DIM], and the captions of each.

    The weights are a running mean of the last few hundred steps' (Polyak & Juditsky 1992), which is worth two points of CIDEr.
    """
    import torch

    words = vocabulary(captions)
    index = {word: number for number, word in enumerate(words)}
    p = fresh_captioner(len(words), seed=1)
    mean = {name: tensor.clone() for name, tensor in p.items()}
    rng = np.random.default_rng(1)
    steps = epochs * (-(-len(captions) // _IMAGES))
    optim, step = optimiser(p, _RATE, _DECAY), 0
    for epoch in range(epochs):
        losses, order = [], rng.permutation(len(captions))
        for start in range(0, len(order), _IMAGES):
            chosen = order[start : start + _IMAGES]
            loss = _step_loss(p, *_given(views, captions, index, (chosen, rng.integers(0, len(views), len(chosen)))))
            for group in optim.param_groups:
                group["lr"] = _RATE * schedule(step, steps, min(_WARM_UP, steps // 4))
            optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(p.values()), _CLIP)
            optim.step()
            step += 1
            weight = max(1 - _AVERAGED, 9 / (step + 9))
            torch._foreach_lerp_(list(mean.values()), [tensor.detach() for tensor in p.values()], weight)
            losses.append(loss.item())
        say(f"captioner: epoch {epoch + 1} of {epochs}, loss {np.mean(losses):.3f}")
    return {name: tensor.numpy() for name, tensor in mean.items()}, words


def _given(views: Sequence[Any], captions: Captions, index: dict[str, int], which: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """Return the maps, tokens and owners of a step: `which` pictures, and the view of each."""
    import torch

    chosen, sides = which
    maps = np.stack([views[side][one] for side, one in zip(sides, chosen, strict=True)]).astype(np.float32)
    owners = np.repeat(np.arange(len(chosen)), [len(captions[one]) for one in chosen])
    tokens = _tokens([text for one in chosen for text in captions[one]], index)
    return torch.from_numpy(maps), torch.from_numpy(tokens), torch.from_numpy(owners)
