"""The request to a decoder, its result, and the names of damages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from curate.images.header import MAX_DECODED_BYTES

Pixels: TypeAlias = npt.NDArray[np.uint8]


PIXELS_SIDE = 256
"""Side in pixels of the squashed square pictures in the transient column `pixels`."""


HASH_SIDE = 128
"""Pictures are decoded to at least this side before hashing; at 1/8 scale, hashes are up to 12 bits off imagehash's."""


DAMAGES: dict[str, str] = {
    "missing_eoi": "only the end marker is missing; the picture is complete",
    "header_junk": "extraneous bytes between the markers before the image data; the picture is complete",
    "bad_metadata": "unreadable metadata (EXIF, ICC profile, text, animation control); the picture is complete",
    "odd_sampling": "a JPEG with chroma sampling that the strict decoder does not support: decoded without its checks",
    "truncated": "the image data end early; the rest of the picture is grey or black",
    "extra_data": "image data left over after the picture was complete: often caused by an earlier flipped bit",
    "bad_entropy_data": "invalid compressed data or a failed checksum; part of the picture is wrong",
    "bad_structure": "broken, duplicate or misplaced markers, chunks or tables",
    "other_warning": "any other warning from the decoder",
}
"""The names that can occur in `damaged: a+b` and their meanings."""


NOT_DECODABLE = "not_decodable"
"""The value of `decoding` for a file that has a valid header but yields no pixels."""


class Picture(NamedTuple):
    """A decoded picture, uint8 [height, width] (grey) or [height, width, 3] (RGB), or None; and the fact `decoding`."""

    pixels: Pixels | None
    decoding: str


@dataclass(frozen=True)
class DecodeRequest:
    """What to decode: the bytes, their format, grey or RGB, and the smallest side to decode to (None = full size)."""

    data: bytes
    format: str
    rgb: bool = False
    side: int | None = HASH_SIDE  # each side is reduced independently, so the aspect ratio can change
    max_bytes: int = MAX_DECODED_BYTES

    @property
    def pixels(self) -> int:
        """Upper bound on the pixels that fit into `max_bytes`, at the smallest pixel size of the format."""
        return self.max_bytes // (2 if self.format == "gif" else 1)

    @property
    def mode(self) -> str:
        """Pillow's mode for the requested pixels."""
        return "RGB" if self.rgb else "L"


def decoding_of(names: set[str]) -> str:
    """Return the fact `decoding` for damages: "ok" for none, else "damaged: a+b"."""
    return "damaged: " + "+".join(sorted(names)) if names else "ok"


def damage_named(message: str, patterns: tuple[tuple[str, str], ...]) -> str:
    """Return the damage for a decoder's message: the name of the first of (substring, name) pairs that matches."""
    return next((name for words, name in patterns if words in message), "other_warning")
