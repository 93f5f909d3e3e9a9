"""What is asked of a decoder and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from curate.images.header import MAX_DECODED_BYTES

Pixels: TypeAlias = npt.NDArray[np.uint8]


PIXELS_SIDE = 256
"""Side of the squashed square pictures in the transient column `pixels`."""


HASH_SIDE = 128
"""Least shorter side from which a picture is hashed: from a 1/8 scale hashes are up to 12 bits off imagehash's."""


DAMAGES: dict[str, str] = {
    "missing_eoi": "the end marker is absent and nothing else: the picture is whole",
    "header_junk": "extraneous bytes between the markers before the image data; the picture is whole",
    "bad_metadata": "metadata (EXIF, ICC profile, text, animation control) that cannot be read; the picture is whole",
    "odd_sampling": "a JPEG whose chroma sampling the strict decoder does not know: decoded without its checks",
    "truncated": "the image data end before the picture does; the rest is grey or black",
    "extra_data": "image data left over when the picture was complete: often a flipped bit somewhere before",
    "bad_entropy_data": "compressed data that mean nothing, or a checksum that fails; part of the picture is wrong",
    "bad_structure": "markers, chunks or tables that are broken, doubled or out of order",
    "other_warning": "any other complaint of the decoder",
}
"""Every name that can stand in `damaged: a+b`, and what it means."""


NOT_DECODABLE = "not_decodable"
"""The value of `decoding` for a file with a good header from which no decoder gets a picture."""


class Picture(NamedTuple):
    """A decoded picture, uint8 [height, width] (grey) or [height, width, 3] (RGB), or None; and the fact `decoding`."""

    pixels: Pixels | None
    decoding: str


@dataclass(frozen=True)
class Want:
    """What to decode: the bytes, their format, grey or RGB, and the least side wanted (None = full size)."""

    data: bytes
    format: str
    rgb: bool = False
    side: int | None = HASH_SIDE  # either side is reduced on its own: shapes are not kept
    max_bytes: int = MAX_DECODED_BYTES

    @property
    def pixels(self) -> int:
        """Return the most pixels that fit `max_bytes`, at the least that a pixel of the format takes."""
        return self.max_bytes // (2 if self.format == "gif" else 1)

    @property
    def mode(self) -> str:
        """Return Pillow's name for the pixels wanted."""
        return "RGB" if self.rgb else "L"


def _damaged(names: set[str]) -> str:
    return "damaged: " + "+".join(sorted(names)) if names else "ok"


def _named(message: str, complaints: tuple[tuple[str, str], ...]) -> str:
    return next((name for words, name in complaints if words in message), "other_warning")
