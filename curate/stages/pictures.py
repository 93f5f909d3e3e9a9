"""The transient column `pictures`: whole images squashed to the square that a captioner or matcher reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import guard
from curate.contracts import Batch
from curate.stages.decode import Want, decode_picture

if TYPE_CHECKING:
    from curate.models.protocols import Pixels

_turn = Lock()
"""Pillow decodes one image at a time (see curate.stages.decode): the time of the others has not begun while they wait."""


def recorded(row: int, want: Want) -> Pixels | None:
    """Return `squashed(want)`, with the row on record for as long as it takes."""
    with nullcontext() if want.format == "jpeg" else _turn, guard.row(row):
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


def picture_column(pictures: Sequence[Pixels | None], side: int) -> pa.Array:
    """Return pictures as fixed_size_binary(side * side * 3), null where there is none."""
    kind = pa.binary(side * side * 3)
    seen = np.array([picture is not None for picture in pictures], np.bool_)
    data = np.zeros((len(pictures), side, side, 3), np.uint8)
    for place, picture in enumerate(pictures):
        if picture is not None:
            data[place] = picture
    valid = pa.py_buffer(np.packbits(seen, bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(seen), [valid, pa.py_buffer(data)])


def pictures_of(batch: Batch, side: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return the pictures of column `pictures`, uint8 [n, side, side, 3], and their rows; nulls have none."""
    column = batch["pictures"]
    rows: npt.NDArray[np.int64] = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    pictures = pictures_in(column, side)
    return (pictures if len(rows) == len(column) else pictures[rows]), rows


def pictures_in(column: pa.Array, side: int) -> Pixels:
    """Return what a column of pictures holds, uint8 [n, side, side, 3], without a copy; anything at its nulls."""
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.empty((0, side, side, 3), np.uint8)
    size = side * side * 3
    return np.frombuffer(data, np.uint8, len(column) * size, column.offset * size).reshape(len(column), side, side, 3)
