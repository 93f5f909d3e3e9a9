"""Decodes an image with the decoder for its format."""

from __future__ import annotations

from collections.abc import Callable

from curate.images.jpeg import decode_jpeg
from curate.images.picture import DecodeRequest, Picture
from curate.images.pillow import decode_pillow

DECODERS: dict[str, Callable[[DecodeRequest], Picture]] = {
    "jpeg": decode_jpeg,
    "png": decode_pillow,
    "webp": decode_pillow,
    "gif": decode_pillow,
    "bmp": decode_pillow,
    "tiff": decode_pillow,
    "avif": decode_pillow,
}
"""The decoder of every format in curate.images.header.FORMATS."""


def decode_picture(request: DecodeRequest) -> Picture:
    """Decode whatever can be decoded of a file whose header is 'ok'. Never raises because of the data."""
    return DECODERS[request.format](request)
