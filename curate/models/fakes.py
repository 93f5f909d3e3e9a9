"""Fakes that derive their results from a hash of the input, in microseconds: for tests, and to try a job without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.models.protocols import (
    Floats,
    Pixels,
    Sampling,
    unit,
)

FAKE_SIDE = 32


def _seed(picture: Pixels) -> int:
    return int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:8], "little")


@dataclass(frozen=True)
class FakeEmbedder:
    """A vector from a hash of the picture: equal pictures agree, others do not. For tests."""

    name: str = "fake"
    dim: int = 64

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1."""
        out = np.empty((len(pixels), self.dim), np.float32)
        for row, picture in enumerate(pixels):
            out[row] = np.random.default_rng(_seed(picture)).standard_normal(self.dim)
        return unit(out)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return float32 [n, dim], each row of length 1."""
        return self.embed(np.array([list(hashlib.sha256(text.encode()).digest()) for text in texts], np.uint8).reshape(-1, 32))


@dataclass(frozen=True)
class FakeClassifier:
    """A score from a hash of the picture. For tests."""

    name: str = "fake"

    def scores(self, pixels: Pixels) -> Floats:
        """Return float32 [n], 0 to 1."""
        return np.array([_seed(picture) / 2**64 for picture in pixels], np.float32)


@dataclass(frozen=True)
class FakeCaptioner:
    """Words from a hash of the picture and the draws. For tests."""

    sampling: Sampling
    name: str = "fake"
    side: int = FAKE_SIDE

    def captions(self, pictures: Pixels, draws: Floats) -> list[list[str]]:
        """Return k captions of each picture, of `min_tokens` words."""
        length = max(1, self.sampling.min_tokens)
        seeds = map(_seed, pictures)
        return [[self._caption(seed, row[:length]) for row in rows] for seed, rows in zip(seeds, draws, strict=True)]

    def _caption(self, seed: int, draws: Floats) -> str:
        return " ".join(f"{_WORDS[seed % len(_WORDS)]}{int(draw * 1000)}" for draw in draws)


_WORDS = ("dog", "tree", "boat", "street", "red", "woman", "table")


@dataclass(frozen=True)
class FakeMatcher:
    """A score from a hash of picture and text. For tests."""

    name: str = "fake"
    side: int = FAKE_SIDE

    def reads(self, text: str) -> bool:
        """Return whether there is anything but full stops in a text."""
        return bool(text.strip(" ."))

    def match(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return a score, 0 to 1, of every text of each picture."""
        return [[self._score(_seed(picture), text) for text in several] for picture, several in zip(pictures, texts, strict=True)]

    def _score(self, seed: int, text: str) -> float:
        digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
        return int.from_bytes(digest[:8], "little") / 2**64
