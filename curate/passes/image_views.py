"""Decoded views of images: bytes in, squares of some side out. Owns the threads and the rows that crash a decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch
from curate.core.timing import Activities
from curate.fetch.image_log import ImageReader
from curate.images import resize
from curate.images.picture import NOT_DECODABLE, DecodeRequest
from curate.passes.texts import Mask
from curate.sources.records import image_array
from curate.stages.pixels import picture_column, pictures_in

if TYPE_CHECKING:
    from curate.models.protocols import Pixels


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a shard come from, and how they are decoded."""

    reader: ImageReader
    crashing_rows: dict[int, str]  # rows that killed or hung a decoder, and which of both
    max_bytes: int  # of a decoded image
    activities: Activities
    threads: ThreadPoolExecutor | None  # models wait for views: they are decoded here, and the images' bytes are kept for them


class ImageViews:
    """The images of some rows, at most IMAGE_ROWS of them with an image.

    `rows` has row, offset, bytes, header and format.
    """

    def __init__(self, source: ImageSource, rows: Batch) -> None:
        self.source, self._rows = source, rows
        self._numbers: list[int] = rows["row"].to_pylist()
        states = zip(rows["header"].to_pylist(), self._numbers, strict=True)
        crashing = source.crashing_rows
        self.reasons = [crashing.get(row) or (None if state == "ok" else state or NOT_DECODABLE) for state, row in states]
        self.usable: Mask = np.array([reason is None for reason in self.reasons], np.bool_)
        self._images: dict[int, pa.BinaryScalar] = {}
        self._held: dict[int, dict[int, Pixels | None]] = {}
        self._columns: dict[tuple[int, bytes], pa.Array] = {}

    def read(self, wanted: Mask) -> Iterator[bytes | None]:
        """Yield the images of rows as they are taken."""
        located = self._rows.select(["row", "offset", "bytes"]).take(pa.array(np.flatnonzero(wanted)))
        return self.source.reader.images(pa.Table.from_batches([located]))

    def column(self, rows: pa.Array, images: Iterator[bytes | None]) -> pa.Array:
        """Return the next images as a binary column, and keep them where views are made of them later."""
        with self.source.activities.doing("read"):
            packed = image_array(list(islice(images, len(rows))))
        if self.source.threads is not None:
            self._images.update(zip(rows.to_pylist(), packed, strict=True))
        return packed

    def hold(self, rows: pa.Array, side: int, column: pa.Array) -> None:
        """Take views that the decoder has made, fixed_size_binary(side * side * 3)."""
        seen = column.is_valid().to_pylist()
        views = zip(rows.to_pylist(), pictures_in(column, side), seen, strict=True)
        self._held.setdefault(side, {}).update({row: view if valid else None for row, view, valid in views})

    def view(self, side: int, wanted: Mask) -> pa.Array:
        """Return the views of rows as fixed_size_binary(side * side * 3), decoding those that nobody has needed yet.

        The column is kept: two stages that read the same rows do not wait for a copy.
        """
        key = (side, wanted.tobytes())
        if key not in self._columns:
            self._columns = {key: self._gathered(side, wanted)}
        return self._columns[key]

    def _gathered(self, side: int, wanted: Mask) -> pa.Array:
        held = self._held.setdefault(side, {})
        again = wanted & self.usable & np.array([row not in held for row in self._numbers], np.bool_)
        if again.any():
            self._decode(again, side)
        listed = [row for row, want in zip(self._numbers, wanted.tolist(), strict=True) if want]
        column = picture_column([held.get(row) for row in listed], side)
        for row, view in zip(listed, pictures_in(column, side), strict=True):
            held[row] = None if held.get(row) is None else view  # the column holds the only copy
        return column

    def _decode(self, wanted: Mask, side: int) -> None:
        unread = wanted & np.array([row not in self._images for row in self._numbers], np.bool_)
        given = self._rows.select(["row", "format"])
        if unread.any():
            rows = given["row"].filter(pa.array(unread))
            self._images.update(zip(rows.to_pylist(), self.column(rows, self.read(unread)), strict=True))
        here = given.filter(pa.array(wanted))
        rows, formats = here["row"].to_pylist(), here["format"].to_pylist()
        wanting = partial(DecodeRequest, rgb=True, side=side, max_bytes=self.source.max_bytes)
        wants = [wanting(self._images[row].as_py() or b"", form) for row, form in zip(rows, formats, strict=True)]
        mapped: Callable[..., Any] = map if self.source.threads is None else self.source.threads.map
        with self.source.activities.doing("pictures" if self.source.threads else "decode", len(rows)):
            self._held[side].update(zip(rows, mapped(resize.resized_watched, rows, wants), strict=True))
        if self.source.threads is None:
            self._images.clear()
