"""Models behind one-method protocols, named by a spec, loaded once a process; the only place that imports torch."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

from curate.core.errors import ModelError
from curate.models.fakes import FakeCaptioner, FakeClassifier, FakeEmbedder, FakeMatcher
from curate.models.protocols import (
    Captioner,
    Classifier,
    Compute,
    Embedder,
    Matcher,
    Sampling,
    TextEmbedder,
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
            from curate.models.mini.model import MiniEmbedder

            return MiniEmbedder.load()
        if spec.startswith("open_clip:"):
            from curate.models.openclip import OpenClip

            return OpenClip.load(spec)
        if is_checkpoint(spec):
            from curate.models.blip.model import BlipEmbedder

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
            from curate.models.mini.model import MiniCaptioner

            return replace(MiniCaptioner.load(), **asdict(sampling))
        if is_checkpoint(spec):
            from curate.models.blip.model import BlipCaptioner

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
            from curate.models.mini.model import MiniMatcher

            return MiniMatcher.load()
        if is_checkpoint(spec):
            from curate.models.blip.model import BlipMatcher

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
