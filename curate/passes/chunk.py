"""A piece of a batch on its way through the stages: what is known of its rows, from the store or computed just now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Stage
from curate.core.timing import Activities
from curate.fetch.image_log import ImageReader
from curate.images.picture import PIXELS_SIDE, DecodeRequest
from curate.images.resize import recorded
from curate.passes.stored_facts import Stored
from curate.passes.verdict import Mask, combined
from curate.sources.records import image_array
from curate.stages.decode import DecodeStage
from curate.stages.pixels import picture_column, pictures_in

if TYPE_CHECKING:
    from curate.models.protocols import Pixels

_READ_ROWS = 32  # images read at once for a stage that keeps no pixels: the same memory again and again, still in cache

_PIXELS_TYPE = pa.binary(PIXELS_SIDE * PIXELS_SIDE * 3)


class PictureStage(Protocol):
    """A stage that reads `pictures`: it knows how large its model wants them."""

    def side(self) -> int:
        """Return the side of the pictures."""


@dataclass(frozen=True)
class Supply:
    """What a chunk draws from: the open shard, the stored facts, the rows that killed a decoder, threads to decode in."""

    opened: ImageReader
    stored: dict[str, Stored]
    crashing_rows: dict[int, str]
    activities: Activities
    threads: ThreadPoolExecutor | None  # there are stages that read pictures: decode them here, and keep the images' bytes

    def decode_stage(self) -> DecodeStage:
        """Return the plan's decode stage."""
        stage = self.stored["decode"].stage
        assert isinstance(stage, DecodeStage)
        return stage


class Chunk:
    """Rows alive of a batch, at most IMAGE_ROWS of them with an image: what is known of them so far."""

    def __init__(self, supply: Supply, rows: Batch) -> None:
        self.supply, self.rows = supply, rows
        self.columns: dict[str, pa.Array] = {name: rows[name] for name in rows.schema.names}
        self.known: dict[str, Mask] = {}
        self._pixels: list[pa.Array] = []
        self._place: dict[int, int] = {}
        self._images: dict[int, pa.BinaryScalar] = {}
        self._pictures: dict[int, dict[int, Pixels | None]] = {}
        self._columns: dict[tuple[int, bytes], pa.Array] = {}

    def ensure(self, stage: Stage, alive: Mask) -> None:
        """Make sure that the stage's facts are known on the rows alive."""
        wanted = self.missing(stage, alive)
        if stage.name == "decode":
            wanted = self._decode_known(wanted)
        if wanted.any():
            self._compute(stage, wanted)

    def missing(self, stage: Stage, alive: Mask) -> Mask:
        """Return the rows alive on which the stage's facts are not known."""
        if stage.name not in self.known:
            self._recall(stage)
        return alive & ~self.known[stage.name]

    def _recall(self, stage: Stage) -> None:
        stored = self.supply.stored[stage.name].known
        rows = self.columns["row"].to_numpy()
        where = pc.index_in(self.columns["row"], value_set=stored["row"].combine_chunks())
        if stage.name == "decode":  # a row may have decoded well in grey and have killed a worker in colour since
            crashing_rows = pa.array(list(self.supply.crashing_rows), pa.int64())
            where = pc.if_else(pc.is_in(self.columns["row"], value_set=crashing_rows), pa.scalar(None, where.type), where)
        self.known[stage.name] = where.is_valid().to_numpy(zero_copy_only=False) if len(rows) else np.zeros(0, np.bool_)
        for item in stage.provides:
            self.columns[item.name] = stored[item.name].combine_chunks().take(where).cast(item.type)

    def _decode_known(self, wanted: Mask) -> Mask:
        """Fill in what needs no decoder: headers that already failed, and rows that killed theirs before."""
        crashing_rows = self.supply.crashing_rows
        reasons = [crashing_rows.get(row) or (None if state == "ok" else state) for state, row in self._states()]
        found = np.array([reason is not None for reason in reasons], np.bool_) & wanted
        if found.any():
            self.put("decoding", found, pa.array([r for r, hit in zip(reasons, found.tolist(), strict=True) if hit], pa.string()))
            self.known["decode"] |= found
        return wanted & ~found

    def put(self, name: str, where: Mask, values: pa.Array) -> None:
        """Write `values` into the rows of `where`."""
        if pa.types.is_nested(self.columns[name].type):  # which replace_with_mask cannot
            place = np.where(where, np.cumsum(where) - 1 + len(where), np.arange(len(where)))
            self.columns[name] = pa.concat_arrays([self.columns[name], values]).take(pa.array(place))
        else:
            self.columns[name] = pc.replace_with_mask(self.columns[name], pa.array(where), values)

    def _compute(self, stage: Stage, wanted: Mask) -> None:
        index = np.flatnonzero(wanted)
        transient = getattr(stage, "transient", ())
        size = _READ_ROWS if "image" in stage.reads and not transient else len(index)
        images = iter(self._read(wanted) if "image" in stage.reads else ())
        parts = [self._answer(stage, index[at : at + size], images) for at in range(0, len(index), size)]
        answer = pa.Table.from_batches([part.select(["row", *stage.provides.names]) for part in parts]).combine_chunks()
        for item in stage.provides:
            self.put(item.name, wanted, combined(answer[item.name]).cast(item.type))
        if "pixels" in transient:
            self._hold(parts[0]["row"], parts[0]["pixels"])
        self.known[stage.name] |= wanted
        self.supply.stored[stage.name].add(answer)

    def _answer(self, stage: Stage, index: npt.NDArray[np.int64], images: Iterator[bytes | None]) -> Batch:
        """Return what a stage says of some rows, with their numbers in `row`; takes as many of `images`."""
        rows = pa.array(index)
        names = [name for name in ("row", *stage.reads) if name in self.columns]
        columns = {name: self.columns[name].take(rows) for name in dict.fromkeys(names)}
        if "image" in stage.reads:
            columns["image"] = self._packed(columns["row"], images)
        if "pixels" in stage.reads:
            columns["pixels"] = self.pixels(_mask(index, self.rows.num_rows))
        if "pictures" in stage.reads:
            columns["pictures"] = self.pictures(_side(stage), _mask(index, self.rows.num_rows))
        given = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        with self.supply.activities.doing(stage.name, given.num_rows):
            return stage(given)

    def _read(self, wanted: Mask) -> Iterator[bytes | None]:
        """Return the images of rows, as they are taken."""
        located = self.rows.select(["row", "offset", "bytes"]).take(pa.array(np.flatnonzero(wanted)))
        return self.supply.opened.images(pa.Table.from_batches([located]))

    def _packed(self, rows: pa.Array, images: Iterator[bytes | None]) -> pa.Array:
        """Return the next images as a column, and keep them where pictures are made of them later."""
        with self.supply.activities.doing("read"):
            packed = image_array(list(islice(images, len(rows))))
        if self.supply.threads is not None:
            self._images.update(zip(rows.to_pylist(), packed, strict=True))
        return packed

    def pixels(self, wanted: Mask) -> pa.Array:
        """Return the pixels of rows, decoding those whose decode facts came from the store."""
        again = wanted & np.array([row not in self._place for row in self.columns["row"].to_pylist()], np.bool_) & self._usable()
        if again.any():
            stage = self.supply.decode_stage()
            given = self.batch(again, ("offset", "bytes", *stage.reads))
            given = given.append_column("image", self._packed(given["row"], self._read(again)))
            with self.supply.activities.doing("decode", given.num_rows):
                answer = stage(given)
            self._hold(given["row"], answer["pixels"])
        places = [self._place.get(row) for row in self.columns["row"].to_numpy()[wanted].tolist()]
        held = self._pixels[0] if len(self._pixels) == 1 else pa.concat_arrays(self._pixels or [pa.nulls(0, _PIXELS_TYPE)])
        return held.take(pa.array(places, pa.int64()))

    def pictures(self, side: int, wanted: Mask) -> pa.Array:
        """Return the pictures of rows at a model's side, decoding those that nobody has asked for yet.

        The column is kept: preparing makes it, and captioner and matcher, who want the same rows, do not wait for a copy.
        """
        asked = (side, wanted.tobytes())
        if asked not in self._columns:
            self._columns = {asked: self._gathered(side, wanted)}
        return self._columns[asked]

    def _gathered(self, side: int, wanted: Mask) -> pa.Array:
        held = self._pictures.setdefault(side, {})
        rows = self.columns["row"].to_pylist()
        again = wanted & np.array([row not in held for row in rows], np.bool_) & self._usable()
        if again.any():
            self._squash(again, side)
        listed = [row for row, want in zip(rows, wanted.tolist(), strict=True) if want]
        column = picture_column([held.get(row) for row in listed], side)
        for row, picture in zip(listed, pictures_in(column, side), strict=True):
            held[row] = None if held.get(row) is None else picture  # a view: the column holds the only copy
        return column

    def _squash(self, wanted: Mask, side: int) -> None:
        unread = wanted & np.array([row not in self._images for row in self.columns["row"].to_pylist()], np.bool_)
        if unread.any():
            self._packed(self.columns["row"].filter(pa.array(unread)), self._read(unread))
        given = self.batch(wanted, ("format",))
        rows, formats = given["row"].to_pylist(), given["format"].to_pylist()
        wanting = partial(DecodeRequest, rgb=True, side=side, max_bytes=self.supply.decode_stage().max_bytes)
        wants = [wanting(self._images[row].as_py() or b"", form) for row, form in zip(rows, formats, strict=True)]
        assert self.supply.threads is not None
        with self.supply.activities.doing("pictures", len(rows)):
            self._pictures[side].update(zip(rows, self.supply.threads.map(recorded, rows, wants), strict=True))

    def _usable(self) -> Mask:
        """Return the rows that may go into a decoder."""
        crashing_rows: Collection[int] = self.supply.crashing_rows
        return np.array([state == "ok" and row not in crashing_rows for state, row in self._states()], np.bool_)

    def _states(self) -> Iterator[tuple[str | None, int]]:
        return zip(self.columns["header"].to_pylist(), self.columns["row"].to_pylist(), strict=True)

    def _hold(self, rows: pa.Array, pixels: pa.Array) -> None:
        start = sum(len(part) for part in self._pixels)
        self._place.update({row: start + place for place, row in enumerate(rows.to_pylist())})
        self._pixels.append(pixels)

    def batch(self, where: Mask, facts: tuple[str, ...]) -> Batch:
        """Return `row` and some facts (those that are known here) of some rows."""
        index = pa.array(np.flatnonzero(where))
        names = [name for name in dict.fromkeys(("row", *facts)) if name in self.columns]
        return pa.RecordBatch.from_arrays([self.columns[name].take(index) for name in names], names=names)

    def prepare(self, stage: Stage, alive: Mask) -> None:
        """Read and decode what a model's stage will ask for, so that the model need not wait for it."""
        wanted = self.missing(stage, alive)
        if wanted.any() and "pictures" in stage.reads:
            self.pictures(_side(stage), wanted)
        if wanted.any() and "pixels" in stage.reads:
            self.pixels(wanted)


def _side(stage: Stage) -> int:
    return cast(PictureStage, stage).side()


def _mask(index: npt.NDArray[np.int64], rows: int) -> Mask:
    where = np.zeros(rows, np.bool_)
    where[index] = True
    return where
