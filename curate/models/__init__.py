"""Models behind one-method protocols, named by a spec, loaded once a process. Nothing here knows filters or stages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from curate.errors import ModelError
from curate.models.protocols import Classifier, Embedder, Floats, Pixels, unit

__all__ = ["Classifier", "Embedder", "load_classifier", "load_embedder"]

EMBEDDERS = ("efficientnet-lite0", "open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE", "fake")
CLASSIFIERS = ("yahoo-open-nsfw", "fake")


@lru_cache(maxsize=4)
def load_embedder(spec: str) -> Embedder:
    """Return the embedder that `spec` names, the same object at every call. Raises ModelError if it cannot be had."""
    try:
        if spec == "efficientnet-lite0":
            from curate.models.efficientnet import EfficientNetLite0

            return EfficientNetLite0.load()
        if spec.startswith("open_clip:"):
            from curate.models.openclip import OpenClip

            return OpenClip.load(spec)
    except ImportError as error:
        raise _extra_missing(spec, error) from error
    if spec == "fake":
        return FakeEmbedder()
    raise ModelError(f"no embedder {spec!r}: known are {', '.join(EMBEDDERS)}")


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


@dataclass(frozen=True)
class FakeClassifier:
    """A score from a hash of the picture. For tests."""

    name: str = "fake"

    def scores(self, pixels: Pixels) -> Floats:
        """Return float32 [n], 0 to 1."""
        return np.array([_seed(picture) / 2**64 for picture in pixels], np.float32)
