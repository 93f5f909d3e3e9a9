"""Whole images squashed to the square that a captioner or matcher reads."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from curate.core import watchdog
from curate.images.decode import decode_picture
from curate.images.picture import Pixels, Want

if TYPE_CHECKING:
    from curate.models.protocols import Pixels


_turn = Lock()
"""Pillow decodes one image at a time (see curate.stages.decode): the time of the others has not begun while they wait."""


def recorded(row: int, want: Want) -> Pixels | None:
    """Return `squashed(want)`, with the row on record for as long as it takes."""
    with nullcontext() if want.format == "jpeg" else _turn, watchdog.row(row):
        return squashed(want)


def squashed(want: Want) -> Pixels | None:
    """Return an image as RGB uint8 [side, side, 3], bicubic, as BLIP's loader squashes it; None where nothing decodes.

    A JPEG is decoded at the smallest scale that is not below the side.
    """
    from PIL import Image

    assert want.side is not None
    pixels = decode_picture(want).pixels
    if pixels is None:
        return None
    return np.asarray(Image.fromarray(pixels).resize((want.side, want.side), Image.Resampling.BICUBIC, reducing_gap=2.0))
