"""The 64-bit perceptual hash of a grey picture, as imagehash.phash computes it."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from curate.images.picture import HASH_SIDE, Pixels

Matrix: TypeAlias = npt.NDArray[np.float64]


_BITS = 16  # of a weight behind the binary point: 255 * 42^2 * 2^32 < 2^53, so every sum below is exact, in any order


@lru_cache(maxsize=1024)
def _low_frequencies(size: int) -> Matrix:
    """Return float64 [8, size]: a Lanczos resize of `size` samples to 32, and the 8 lowest frequencies of their DCT.

    Whole numbers, so that a hash does not depend on the machine's way to add; all rows but the first sum to zero, so
    that a plain picture has no frequencies whatever its size.
    """
    scale = size / 32
    width = max(scale, 1.0)
    away = (np.arange(size)[None] + 0.5 - (np.arange(32)[:, None] + 0.5) * scale) / width
    weights = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)
    whole: Matrix = np.round(cosines @ weights * 2**_BITS)
    for frequency in whole[1:]:
        while excess := int(frequency.sum()):
            largest = np.argsort(-np.abs(frequency), kind="stable")[: abs(excess)]
            frequency[largest] -= np.sign(excess)
    return whole


def _spectrum(grey: Pixels) -> Matrix:
    """Return the 8 x 8 lowest DCT coefficients of a picture, first reduced where a side is far above HASH_SIDE."""
    from PIL import Image

    height, width = grey.shape
    factors = max(1, width // HASH_SIDE), max(1, height // HASH_SIDE)
    if factors != (1, 1):
        grey = np.asarray(Image.fromarray(grey).reduce(factors))
        height, width = grey.shape
    columns: Matrix = grey.astype(np.float64) @ _low_frequencies(width).T  # this way round it takes half the time
    return _low_frequencies(height) @ columns


def _bits(spectra: Matrix) -> npt.NDArray[np.uint64]:
    """Return float64 [n, 8, 8] as uint64 [n]: a bit for each coefficient above the median, the first one highest."""
    flat = spectra.reshape(-1, 64)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").ravel().astype(np.uint64)


def perceptual_hash(grey: Pixels) -> int:
    """Return the 64-bit hash of a grey picture, uint8 [height, width]; `f"{hash:016x}"` reads like imagehash.phash."""
    return int(_bits(_spectrum(grey)[None])[0])
