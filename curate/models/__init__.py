"""Models behind one-method protocols, named by a spec, loaded once a process; the only place that imports torch.

What a spec means is in one table: curate.models.registry (how to add a model) and curate.models.builtin (those that are there).
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from curate.models import registry
from curate.models.protocols import (
    Captioner,
    Classifier,
    Compute,
    Embedder,
    Matcher,
    Sampling,
    TextEmbedder,
)
from curate.models.registry import ModelEntry, ModelFacts, ModelRequest, register

__all__ = [
    "Captioner",
    "Classifier",
    "Compute",
    "Embedder",
    "Matcher",
    "ModelEntry",
    "ModelFacts",
    "ModelRequest",
    "Sampling",
    "TextEmbedder",
    "load_captioner",
    "load_classifier",
    "load_embedder",
    "load_matcher",
    "load_text_embedder",
    "register",
]

_USUAL = Compute()


@lru_cache(maxsize=4)
def load_embedder(spec: str) -> Embedder:
    """Return the embedder that `spec` names, the same object at every call. Raises ModelError."""
    return cast(Embedder, registry.load(ModelRequest("embedder", spec)))


def load_text_embedder(spec: str) -> TextEmbedder:
    """Return the embedder of images and texts that `spec` names: what `load_embedder` returns. Raises ModelError."""
    registry.find("text_embedder", spec)
    return cast(TextEmbedder, load_embedder(spec))


@lru_cache(maxsize=4)
def load_captioner(spec: str, sampling: Sampling, compute: Compute = _USUAL) -> Captioner:
    """Return the captioner that `spec` names, the same object at every call. Raises ModelError."""
    return cast(Captioner, registry.load(ModelRequest("captioner", spec, sampling, compute)))


@lru_cache(maxsize=4)
def load_matcher(spec: str, compute: Compute = _USUAL) -> Matcher:
    """Return the matcher that `spec` names, the same object at every call. Raises ModelError."""
    return cast(Matcher, registry.load(ModelRequest("matcher", spec, compute=compute)))


@lru_cache(maxsize=4)
def load_classifier(spec: str) -> Classifier:
    """Return the classifier that `spec` names, the same object at every call. Raises ModelError."""
    return cast(Classifier, registry.load(ModelRequest("classifier", spec)))
