"""How the pixels of a picture are stored, read from its first bytes: what loaders may show otherwise than the models saw it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from curate.images.header import read_header


def unusual_mode(data: bytes, form: str) -> str | None:
    """Return the mode of a JPEG, PNG or WebP in Pillow's words, None for plain RGB or grey of 8 bits a channel.

    Models see transparency on white and 16 bits scaled to 8; a loader that converts to RGB drops transparency and clips 16 bits.
    Other formats have no mode here: they are never stored as they are. Never raises because of the data.

    >>> unusual_mode(b"", "png")
    """
    with suppress(struct.error, IndexError):  # the file ends inside its header
        return _READERS[form](data) if form in _READERS else None
    return None


def _jpeg(data: bytes) -> str | None:
    return "CMYK" if read_header(data).depth == 4 else None


_PNG_MODES = {3: "P", 4: "LA", 6: "RGBA"}
_PNG_CLEAR = {0: "LA", 2: "RGBA"}  # with one colour that is transparent


def _png(data: bytes) -> str | None:
    bits, kind = data[24], data[25]
    if kind == 0 and bits == 16:
        return "I;16"
    if kind == 0 and bits == 1:
        return "1"
    if kind in _PNG_CLEAR and b"tRNS" in _png_chunks(data):
        return _PNG_CLEAR[kind]
    return _PNG_MODES.get(kind)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the names of the chunks before the image data."""
    at = 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            return
        yield name
        at += 12 + size


def _webp(data: bytes) -> str | None:
    kind = data[12:16]
    clear = (kind == b"VP8X" and data[20] & 0x10) or (kind == b"VP8L" and data[24] & 0x10)
    return "RGBA" if clear else None


_READERS: dict[str, Callable[[bytes], str | None]] = {"jpeg": _jpeg, "png": _png, "webp": _webp}
