"""Records with several web texts: a row for each text, and the way back to the records.

Facts of the image are the same on all rows of a record; facts of a text are those of the row's own.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch
from curate.stages.text import TextStage, hash_strings, normalised

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]

_OF_RECORD = ("earlier_texts", "more_texts", "more_keys")
"""Columns that only the row of a record's first text has: they may be large."""


def more_keys(more: pa.Array) -> pa.Array:
    """Return the text keys (list<uint64>) of lists of texts."""
    keys = pa.array(hash_strings(normalised(more.flatten())), pa.uint64())
    return _lists_like(more, keys)


def without_more(more: pa.Array) -> pa.Array:
    """Return lists as long as these, of nulls: of texts that are gone, whose keys stay."""
    return _lists_like(more, pa.nulls(len(more.flatten()), pa.string()))


def _lists_like(lists: pa.Array, values: pa.Array) -> pa.Array:
    """Return lists of `values` (one for each item) that are as long as `lists`, and null where these are."""
    ends = np.cumsum([0, *pc.fill_null(pc.list_value_length(lists), 0).to_pylist()])
    found = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
    return pc.if_else(lists.is_valid(), found, pa.scalar(None, found.type))


class Texts:
    """The rows of a batch that has a row for each text: `number` is that of the text in its record, from 0."""

    def __init__(self, number: Index) -> None:
        self.number = number
        self.heads: Mask = number == 0
        self.single = bool(self.heads.all())

    @cached_property
    def record(self) -> Index:
        """Return the place of each row's record."""
        return np.cumsum(self.heads) - 1

    @cached_property
    def first(self) -> Index:
        """Return the row of each record's first text."""
        return np.flatnonzero(self.heads)

    @cached_property
    def sizes(self) -> Index:
        """Return how many texts each record has."""
        return np.diff(self.first, append=len(self.number))

    def of_records(self, rows: Mask) -> Mask:
        """Return for each record whether any of its rows is meant."""
        if self.single:
            return rows
        return np.bincount(self.record[rows], minlength=len(self.first)) > 0

    def at_heads(self, rows: Mask) -> Mask:
        """Return the rows of the first texts of the records any of whose rows is meant."""
        if self.single:
            return rows
        found = np.zeros(len(rows), np.bool_)
        found[self.first] = self.of_records(rows)
        return found

    def whole(self, rows: Mask) -> Mask:
        """Return all rows of the records any of whose rows is meant."""
        return rows if self.single else self.of_records(rows)[self.record]


def texts_of(batch: Batch) -> Texts:
    """Return the texts of a batch that `by_text` made, or of some rows of it: whole records."""
    return Texts(batch["text_no"].to_numpy().astype(np.int64))


def by_text(batch: Batch, stage: TextStage) -> Batch:
    """Return base facts with a row for each text, and `text_no` (int16). What was known of the first text is kept."""
    lengths = pc.fill_null(pc.list_value_length(batch["more_texts"]), 0).to_numpy()
    if not lengths.any():
        return batch.append_column("text_no", pa.array(np.zeros(batch.num_rows, np.int16)))
    owner = np.repeat(np.arange(batch.num_rows), lengths + 1)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(lengths + 1) - lengths - 1, lengths + 1)
    heads = number == 0
    once = pa.array(owner, mask=~heads)
    rows = pa.array(np.where(heads, owner, batch.num_rows + np.cumsum(~heads) - 1))
    found = _of_more(batch, stage)
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in found:
            columns[name] = pa.concat_arrays([column, found[name].cast(column.type)]).take(rows)
        else:
            columns[name] = column.take(once if name in _OF_RECORD else pa.array(owner))
    columns["text_no"] = pa.array(number.astype(np.int16))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _of_more(batch: Batch, stage: TextStage) -> dict[str, pa.Array]:
    """Return the facts of all texts but the first, one behind the other."""
    texts = batch["more_texts"].flatten()
    return {"text": texts, "text_key": batch["more_keys"].flatten(), **stage.of(normalised(texts))}
