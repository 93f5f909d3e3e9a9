"""Images squashed to the square input of a captioner or matcher."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Lock

import numpy as np

from curate.core import watchdog
from curate.images.decode import decode_picture
from curate.images.picture import DecodeRequest, Pixels

_pillow_turn = Lock()
"""Pillow decodes one image at a time (see curate.images.pillow). Taken before the watchdog, so that waiting is not timed."""


def resized_watched(row: int, request: DecodeRequest) -> Pixels | None:
    """Return `resized(request)`, watched by curate.core.watchdog as `row`."""
    with nullcontext() if request.format == "jpeg" else _pillow_turn, watchdog.row(row):
        return resized(request)


def resized(request: DecodeRequest) -> Pixels | None:
    """Return an image as RGB uint8 [side, side, 3], resized bicubically as by BLIP's loader; None if it does not decode.

    A JPEG is decoded at the smallest scale that is at least the side.
    """
    from PIL import Image

    assert request.side is not None
    pixels = decode_picture(request).pixels
    if pixels is None:
        return None
    return np.asarray(Image.fromarray(pixels).resize((request.side, request.side), Image.Resampling.BICUBIC, reducing_gap=2.0))
