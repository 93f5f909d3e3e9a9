"""The 64-bit perceptual hash of a grey picture, as imagehash.phash computes it."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from curate.images.picture import HASH_SIDE, Pixels

Matrix: TypeAlias = npt.NDArray[np.float64]
Hashes: TypeAlias = npt.NDArray[np.uint64]


_FRACTION_BITS = 16  # fractional bits of a weight: 255 * 42^2 * 2^32 < 2^53, so every sum below is exact, in any order


@lru_cache(maxsize=1024)
def _low_frequencies(size: int) -> Matrix:
    """Return float64 [8, size]: a Lanczos resize of `size` samples to 32, and the 8 lowest frequencies of their DCT.

    Integers, so that a hash does not depend on the order of additions; all rows but the first sum to zero, so that a
    uniform picture has no frequencies at any size.
    """
    scale = size / 32
    width = max(scale, 1.0)
    away = (np.arange(size)[None] + 0.5 - (np.arange(32)[:, None] + 0.5) * scale) / width
    weights = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)
    whole: Matrix = np.round(cosines @ weights * 2**_FRACTION_BITS)
    for frequency in whole[1:]:
        while excess := int(frequency.sum()):
            largest = np.argsort(-np.abs(frequency), kind="stable")[: abs(excess)]
            frequency[largest] -= np.sign(excess)
    return whole


def spectrum(grey: Pixels) -> Matrix:
    """Return float64 [8, 8], the lowest DCT coefficients of a grey uint8 [height, width]; a large picture is reduced first."""
    from PIL import Image

    height, width = grey.shape
    factors = max(1, width // HASH_SIDE), max(1, height // HASH_SIDE)
    if factors != (1, 1):
        grey = np.asarray(Image.fromarray(grey).reduce(factors))
        height, width = grey.shape
    columns: Matrix = grey.astype(np.float64) @ _low_frequencies(width).T  # in this order it takes half the time
    return _low_frequencies(height) @ columns


def hash_bits(spectra: Matrix) -> npt.NDArray[np.uint64]:
    """Return the hashes, uint64 [n], of spectra, float64 [n, 8, 8]: a bit per coefficient above the median, first is highest."""
    flat = spectra.reshape(-1, 64)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").ravel().astype(np.uint64)


def perceptual_hash(grey: Pixels) -> int:
    """Return the 64-bit hash of a grey picture, uint8 [height, width]; `f"{hash:016x}"` equals imagehash.phash."""
    return int(hash_bits(spectrum(grey)[None])[0])
