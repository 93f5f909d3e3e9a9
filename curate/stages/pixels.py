"""The transient column `pictures`: whole images squashed to the square that a captioner or matcher reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch
from curate.images.picture import PIXELS_SIDE, Pixels

if TYPE_CHECKING:
    from curate.models.protocols import Pixels


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


def square_and_grey(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Return an RGB picture as RGB uint8 [PIXELS_SIDE, PIXELS_SIDE, 3], and as grey at its own size."""
    from PIL import Image

    image = Image.fromarray(pixels)
    square = image.resize((PIXELS_SIDE, PIXELS_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(square), np.asarray(image.convert("L"))


def pixel_column(pixels: Pixels, seen: npt.NDArray[np.bool_]) -> pa.Array:
    """Return uint8 [n, side, side, 3] as fixed_size_binary without a copy, null where not `seen`."""
    valid = pa.py_buffer(np.packbits(seen, bitorder="little").tobytes())
    width = PIXELS_SIDE * PIXELS_SIDE * 3
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(seen), [valid, pa.py_buffer(pixels)])


PIXELS_SHAPE = (256, 256, 3)


def pixels_of(batch: Batch) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return the pictures of column `pixels`, uint8 [n, 256, 256, 3], and their rows; nulls have none."""
    column = batch.column("pixels")
    rows = _valid(column)
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.empty((0, *PIXELS_SHAPE), np.uint8), rows[:0]
    size = PIXELS_SHAPE[0] * PIXELS_SHAPE[1] * PIXELS_SHAPE[2]
    flat = np.frombuffer(data, np.uint8, len(column) * size, column.offset * size)
    pictures = flat.reshape(len(column), *PIXELS_SHAPE)
    return (pictures if len(rows) == len(column) else pictures[rows]), rows


def hashes_of(batch: Batch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hashes of column `phash` that are not null, uint64 [n], and their rows."""
    column = batch.column("phash")
    return column.drop_null().to_numpy(zero_copy_only=False), _valid(column)


def _valid(column: pa.Array) -> npt.NDArray[np.int64]:
    rows: npt.NDArray[np.int64] = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    return rows
