"""Living rows of a batch on their way through the stages: the columns that are known of them so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import IMAGE_VIEWS, Batch, Stage
from curate.images.picture import PIXELS_SIDE
from curate.passes.image_views import ImageSource, ImageViews
from curate.passes.shard_facts import ShardFacts
from curate.passes.texts import Mask, texts_of
from curate.passes.verdict import combined

_READ_ROWS = 32  # images read at once for a stage that hands no views on: the same memory again and again, still in cache


class PictureStage(Protocol):
    """A stage that reads `pictures`: it knows the side that its model reads."""

    def side(self) -> int:
        """Return the side in pixels."""


class Piece:
    """Some rows of a batch, at most IMAGE_ROWS of them with an image."""

    def __init__(self, facts: ShardFacts, source: ImageSource, rows: Batch) -> None:
        self.columns: dict[str, pa.Array] = dict(zip(rows.schema.names, rows.columns, strict=True))
        self.views, self.texts = ImageViews(source, rows), texts_of(rows)
        self._facts, self._activities, self._rows = facts, source.activities, rows.num_rows
        self._known: dict[str, Mask] = {}

    def ensure(self, stage: Stage, alive: Mask) -> None:
        """Make sure that the stage's facts are known on the living rows."""
        wanted = self._computed(stage, self.missing(stage, alive))
        if "image" in stage.reads:  # a stage that reads bytes is told why a row has none; nothing of that is stored
            refused = wanted & ~self.views.usable
            if refused.any():
                self._put(stage, refused, stage(self._given(stage, np.flatnonzero(refused), None)))
            wanted &= self.views.usable
        if wanted.any():
            for source in self._unstored(stage):
                self.ensure(source, wanted)
            self._compute(stage, wanted)
        self._spread(stage)

    def missing(self, stage: Stage, alive: Mask) -> Mask:
        """Return the living rows on which the stage's facts are not known."""
        if stage.name not in self._known:
            known, columns = self._facts.recall(stage, self.columns["row"])
            if "image" in stage.reads:  # a row may have decoded well in grey and have killed a worker in colour since
                known &= self.views.usable
            if not self.texts.single:
                known &= self._whole(stage, columns)
            self.columns.update(columns)
            self._known[stage.name] = known
        return alive & ~self._known[stage.name]

    def prepare(self, stage: Stage, alive: Mask) -> None:
        """Read and decode what a stage after the models or of them will need, so that no model waits for it.

        A stage that reads bytes runs now: whoever prepares is the only one that reads the shard.
        """
        if "image" in stage.reads:
            self.ensure(stage, alive)
            return
        wanted = self._computed(stage, self.missing(stage, alive))
        if wanted.any():
            for source in self._unstored(stage):
                self.prepare(source, wanted)
            for name in IMAGE_VIEWS:
                if name in stage.reads:
                    self.views.view(_side(stage, name), wanted)

    def _computed(self, stage: Stage, wanted: Mask) -> Mask:
        """Return the rows that a stage runs on: of records, the first row alone, where its facts are not of the text."""
        return wanted if of_text(stage) else self.texts.at_heads(wanted)

    def _whole(self, stage: Stage, columns: dict[str, pa.Array]) -> Mask:
        """Return on which rows facts that are stored hold: those of a text on the first, lists where no text lacks a score."""
        if of_text(stage):
            return self.texts.heads
        whole = np.ones(self._rows, np.bool_)
        for column in columns.values():
            if pa.types.is_list(column.type) and "more_texts" in stage.optional:
                lengths = pc.fill_null(pc.list_value_length(column), len(self.texts.number)).to_numpy()
                whole &= lengths >= self.texts.sizes[self.texts.record]
        return whole

    def _spread(self, stage: Stage) -> None:
        """Give all rows of a record what a stage says of its image."""
        if not (self.texts.single or of_text(stage)):
            first = self.texts.first[self.texts.record]
            for fact in stage.facts:
                self.columns[fact.name] = self.columns[fact.name].take(pa.array(first))
            self._known[stage.name] = self._known[stage.name][first]

    def _unstored(self, stage: Stage) -> Iterator[Stage]:
        """Yield the stages that compute what a stage reads and nobody stores: they run on the rows of those that read them."""
        return (self._facts.unstored[name] for name in (*stage.reads, *stage.optional) if name in self._facts.unstored)

    def select(self, where: Mask, names: tuple[str, ...]) -> Batch:
        """Return `row` and some columns (those that are known here) of some rows."""
        index = pa.array(np.flatnonzero(where))
        here = [name for name in dict.fromkeys(("row", *names)) if name in self.columns]
        return pa.RecordBatch.from_arrays([self.columns[name].take(index) for name in here], names=here)

    def _compute(self, stage: Stage, wanted: Mask) -> None:
        index = np.flatnonzero(wanted)
        reads_bytes = "image" in stage.reads
        size = _READ_ROWS if reads_bytes and not stage.transient else len(index)
        images = self.views.read(wanted) if reads_bytes else None
        parts = [self._answer(stage, index[at : at + size], images) for at in range(0, len(index), size)]
        if "pixels" in stage.transient:
            self.views.hold(parts[0]["row"], PIXELS_SIDE, parts[0]["pixels"])
        answer = pa.Table.from_batches([part.select(["row", *stage.provides.names]) for part in parts]).combine_chunks()
        self._put(stage, wanted, answer)
        heads = self.texts.heads[wanted]
        self._facts.add(stage, answer if heads.all() else answer.filter(pa.array(heads)))

    def _put(self, stage: Stage, where: Mask, answer: Batch | pa.Table) -> None:
        """Write a stage's answer into the rows of `where`, which are known from now on."""
        for fact in stage.facts:
            values, column = combined(answer[fact.name]).cast(fact.type), self.columns[fact.name]
            if pa.types.is_nested(fact.type):  # which replace_with_mask cannot
                place = np.where(where, np.cumsum(where) - 1 + len(where), np.arange(len(where)))
                self.columns[fact.name] = pa.concat_arrays([column, values]).take(pa.array(place))
            else:
                self.columns[fact.name] = pc.replace_with_mask(column, pa.array(where), values)
        self._known[stage.name] |= where

    def _answer(self, stage: Stage, index: npt.NDArray[np.int64], images: Iterator[bytes | None] | None) -> Batch:
        given = self._given(stage, index, images)
        with self._activities.doing(stage.name, given.num_rows):
            return stage(given)

    def _given(self, stage: Stage, index: npt.NDArray[np.int64], images: Iterator[bytes | None] | None) -> Batch:
        """Return what a stage reads of some rows, and `row`; takes as many of `images` as there are rows."""
        rows = pa.array(index)
        names = [name for name in ("row", *stage.reads, *stage.optional) if name in self.columns]
        columns = {name: self.columns[name].take(rows) for name in dict.fromkeys(names)}
        where = np.zeros(self._rows, np.bool_)
        where[index] = True
        if "image" in stage.reads:
            none = pa.nulls(len(index), pa.binary())
            columns["image"] = none if images is None else self.views.column(columns["row"], images)
            columns["header"] = pa.array([self.views.reasons[place] or "ok" for place in index.tolist()], pa.string())
        for name in IMAGE_VIEWS:
            if name in stage.reads:
                columns[name] = self.views.view(_side(stage, name), where)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def of_text(stage: Stage) -> bool:
    """Return whether the facts of a stage are those of one text, not of an image or of all texts of a record."""
    if any(fact.about == "text" for fact in stage.facts):
        return True
    return "text" in stage.reads and not any(pa.types.is_list(fact.type) for fact in stage.facts)


def _side(stage: Stage, view: str) -> int:
    return PIXELS_SIDE if view == "pixels" else cast(PictureStage, stage).side()
