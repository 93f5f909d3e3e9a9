"""What a model promises, and the one way to feed it: fixed blocks of rows, so that no answer depends on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MODEL_ROWS = 16
"""Rows of every call into a model: scores change in their last bits with the batch size, so there is only one."""


class Embedder(Protocol):
    """Turns pictures into vectors whose dot product says how alike they are."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1, of RGB uint8 [n, 256, 256, 3]."""


class Classifier(Protocol):
    """Gives each picture a probability."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    def scores(self, pixels: Pixels) -> Floats:
        """Return float32 [n], 0 to 1, of RGB uint8 [n, 256, 256, 3]."""


def in_blocks(pixels: Pixels, call: Callable[[Pixels], Floats], width: int) -> Floats:
    """Return float32 [n, width]: `call` on blocks of exactly MODEL_ROWS pictures, the last one filled up with black."""
    out = np.empty((len(pixels), width), np.float32)
    for start in range(0, len(pixels), MODEL_ROWS):
        block = pixels[start : start + MODEL_ROWS]
        rows = len(block)
        if rows < MODEL_ROWS:
            block = np.concatenate([block, np.zeros((MODEL_ROWS - rows, *block.shape[1:]), np.uint8)])
        out[start : start + rows] = call(block).reshape(MODEL_ROWS, width)[:rows]
    return out


def unit(vectors: Floats) -> Floats:
    """Return float32 [n, d] with each row scaled to length 1; a row of zeros stays one."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    scaled: Floats = (vectors / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)
    return scaled
