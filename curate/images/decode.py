"""One image decoded by its format's decoder."""

from __future__ import annotations

from curate.images.jpeg import _decode_jpeg
from curate.images.picture import Picture, Want
from curate.images.pillow import _decode_pillow


def decode_picture(want: Want) -> Picture:
    """Decode whatever can be had of a file whose header is 'ok'; never raises for what is in the data."""
    return _decode_jpeg(want) if want.format == "jpeg" else _decode_pillow(want)
