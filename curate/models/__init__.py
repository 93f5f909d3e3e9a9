"""Models behind one-method protocols, named by a spec, loaded once a process. Nothing here knows filters or stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from curate.errors import ModelError
from curate.models.protocols import (
    Captioner,
    Classifier,
    Compute,
    Embedder,
    Floats,
    Matcher,
    Pixels,
    Sampling,
    TextEmbedder,
    unit,
)

__all__ = [
    "Captioner",
    "Classifier",
    "Compute",
    "Embedder",
    "Matcher",
    "Sampling",
    "TextEmbedder",
    "load_captioner",
    "load_classifier",
    "load_embedder",
    "load_matcher",
    "load_text_embedder",
]

_CHECKPOINTS = ("hf:ORGANISATION/NAME[@REVISION]", "a folder with config.json, tokenizer.json and model.safetensors")
EMBEDDERS = ("efficientnet-lite0", "mini", "open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE", *_CHECKPOINTS, "fake")
TEXT_EMBEDDERS = EMBEDDERS[1:]
CLASSIFIERS = ("yahoo-open-nsfw", "fake")
FAKE_SIDE = 32
BLIP = ("mini", *_CHECKPOINTS, "fake")
"""Specs of captioners and of matchers."""


_USUAL = Compute()


@lru_cache(maxsize=4)
def load_embedder(spec: str) -> Embedder:
    """Return the embedder that `spec` names, the same object at every call. Raises ModelError if it cannot be had."""
    try:
        if spec == "efficientnet-lite0":
            from curate.models.efficientnet import EfficientNetLite0

            return EfficientNetLite0.load()
        if spec == "mini":
            from curate.models.mini import MiniEmbedder

            return MiniEmbedder.load()
        if spec.startswith("open_clip:"):
            from curate.models.openclip import OpenClip

            return OpenClip.load(spec)
        if is_checkpoint(spec):
            from curate.models.blip import BlipEmbedder

            return BlipEmbedder.load(spec, Compute(batch=32))
    except ImportError as error:
        raise _extra_missing(spec, error) from error
    if spec == "fake":
        return FakeEmbedder()
    raise ModelError(f"no embedder {spec!r}: known are {', '.join(EMBEDDERS)}")


def load_text_embedder(spec: str) -> TextEmbedder:
    """Return the embedder of images and texts that `spec` names. Raises ModelError if it cannot be had, or has no texts."""
    if spec == "efficientnet-lite0":
        raise ModelError(f"{spec} embeds images only: for texts too there are {', '.join(TEXT_EMBEDDERS)}")
    return cast(TextEmbedder, load_embedder(spec))


@lru_cache(maxsize=4)
def load_captioner(spec: str, sampling: Sampling, compute: Compute = _USUAL) -> Captioner:
    """Return the captioner that `spec` names, the same object at every call. Raises ModelError if it cannot be had."""
    try:
        if spec == "mini":
            from curate.models.mini import MiniCaptioner

            return replace(MiniCaptioner.load(), **asdict(sampling))
        if is_checkpoint(spec):
            from curate.models.blip import BlipCaptioner

            return BlipCaptioner.load(spec, sampling, compute)
    except ImportError as error:
        raise _extra_missing(spec, error) from error
    if spec == "fake":
        return FakeCaptioner(sampling)
    raise ModelError(f"no captioner {spec!r}: known are {', '.join(BLIP)}")


@lru_cache(maxsize=4)
def load_matcher(spec: str, compute: Compute = _USUAL) -> Matcher:
    """Return the matcher that `spec` names, the same object at every call. Raises ModelError if it cannot be had."""
    try:
        if spec == "mini":
            from curate.models.mini import MiniMatcher

            return MiniMatcher.load()
        if is_checkpoint(spec):
            from curate.models.blip import BlipMatcher

            return BlipMatcher.load(spec, compute)
    except ImportError as error:
        raise _extra_missing(spec, error) from error
    if spec == "fake":
        return FakeMatcher()
    raise ModelError(f"no matcher {spec!r}: known are {', '.join(BLIP)}")


def is_checkpoint(spec: str) -> bool:
    """Return whether a spec names a checkpoint: on the hub, or a folder (anything that looks like a path)."""
    return spec.startswith("hf:") or "/" in spec or Path(spec).is_dir()


@lru_cache(maxsize=4)
def load_classifier(spec: str) -> Classifier:
    """Return the classifier that `spec` names, the same object at every call. Raises ModelError if it cannot be had."""
    try:
        if spec == "yahoo-open-nsfw":
            from curate.models.nsfw import YahooOpenNsfw

            return YahooOpenNsfw.load()
    except ImportError as error:
        raise _extra_missing(spec, error) from error
    if spec == "fake":
        return FakeClassifier()
    raise ModelError(f"no classifier {spec!r}: known are {', '.join(CLASSIFIERS)}")


def _extra_missing(spec: str, error: ImportError) -> ModelError:
    return ModelError(f'{spec} needs the package {error.name or error}: pip install "curate[models]"')


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
