"""Records that were taken out of an output: their hashes stay, so that no later run brings them back.

OUT/removed/ holds files of hashes, one for each command that took something out; what counts is all of them together. Nothing of
a removed record is kept but its place, the sha256 of its image, and the date.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import Batch
from curate.core.verdicts import REMOVED
from curate.passes.texts import Mask, without_more
from curate.passes.verdict import combined
from curate.stages.text import hash_strings, normalised
from curate.storage.backend import Storage
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store

FOLDER = "removed"

Kind = Literal["sha256", "phash", "url", "text"]

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("value", pa.string()),  # hex: sha256; 16 digits of a perceptual hash, or of the xxh3 of a url or of a text's normal form
        ("radius", pa.int32()),  # bits, of a perceptual hash; null of the others
        ("date", pa.string()),  # ISO
    ]
)

_KEPT = ("shard", "shard_index", "row", "text_no", "source", "sha256")
"""Columns of decisions that a removed record keeps."""


@dataclass(frozen=True)
class Tombstone:
    """What is left of something that was taken out (see SCHEMA)."""

    kind: Kind
    value: str
    date: str
    radius: int | None = None


@dataclass(frozen=True)
class Removed:
    """All tombstones of an output. Dates are the first that apply to a record."""

    sha256: pa.Array  # string
    urls: pa.Array  # uint64
    texts: pa.Array  # uint64
    phashes: tuple[tuple[int, int, str], ...]  # hash, radius, date
    dates: Mapping[str, pa.Array]  # of sha256, urls, texts

    def of_base(self, batch: Batch) -> pa.Array:
        """Return the date (string) for each row of base facts, null for what was not taken out."""
        if self is NOTHING:
            return pa.nulls(batch.num_rows, pa.string())
        names = {"sha256": "sha256", "urls": "url_key", "texts": "text_key"}
        found = [self._dates(kind, batch[name]) for kind, name in names.items()]
        return _first(*found, self._of_more_texts(batch["more_keys"]), self.of_earlier_texts(batch["earlier_texts"]))

    def _of_more_texts(self, column: pa.Array) -> pa.Array:
        """Return the date (string) for each row of this column of base facts: the first of any of the texts after the first."""
        if not len(self.texts) or column.null_count == len(column):
            return pa.nulls(len(column), pa.string())
        dates = self._dates("texts", column.flatten()).to_pylist()
        return _of_rows(pc.list_parent_indices(column).to_pylist(), dates, len(column))

    def of_earlier_texts(self, column: pa.Array) -> pa.Array:
        """Return the date (string) for each row of this column of base facts; null where no earlier text was taken out."""
        if not len(self.texts) or column.null_count == len(column):
            return pa.nulls(len(column), pa.string())
        places, keys = _earlier_keys(column)
        return _of_rows(places, self._dates("texts", keys).to_pylist(), len(column))

    def of_decisions(self, table: pa.Table) -> pa.Array:
        """Return the date (string) for each row of decisions; a record with several texts has the same on all of its rows."""
        found = [pa.nulls(table.num_rows, pa.string())]  # what nobody named is not looked up: hashing costs the most
        if len(self.sha256):
            found.append(self._dates("sha256", combined(table["sha256"])))
        if len(self.urls):
            found.append(self._dates("urls", _keys(combined(table["url"]))))
        if len(self.texts):
            found.append(self._dates("texts", _keys(normalised(combined(table["text"])))))
        if self.phashes:
            found.append(self._near(combined(table["phash"])))
        dates = _first(*found)
        if dates.null_count < len(dates) and pc.max(table["text_no"]).as_py():
            rows = table["row"].to_numpy()
            of_row = {rows[place]: dates[place] for place in np.flatnonzero(dates.is_valid())}
            dates = pa.array([of_row[row].as_py() if row in of_row else None for row in rows.tolist()], pa.string())
        return dates

    def _dates(self, kind: str, values: pa.Array) -> pa.Array:
        return self.dates[kind].take(pc.index_in(values, value_set=getattr(self, kind)))

    def _near(self, hashes: pa.Array) -> pa.Array:
        found: pa.Array = pa.nulls(len(hashes), pa.string())
        valid = hashes.is_valid().to_numpy(zero_copy_only=False)
        bits = hashes.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64)
        for value, radius, date in reversed(self.phashes):
            near = valid & (np.bitwise_count(bits ^ np.uint64(value)) <= radius)
            found = pc.if_else(pa.array(near), date, found)
        return found


NOTHING = Removed(
    pa.array([], pa.string()), pa.array([], pa.uint64()), pa.array([], pa.uint64()), (),
    {kind: pa.array([], pa.string()) for kind in ("sha256", "urls", "texts")},
)  # fmt: skip
"""Where nothing was taken out."""


def url_value(url: str) -> str:
    """Return the value of a url's tombstone."""
    return f"{_keys(pa.array([url]))[0].as_py():016x}"


def text_value(text: str) -> str:
    """Return the value of a text's tombstone: texts with the same normal form have the same."""
    return f"{_keys(normalised(pa.array([text])))[0].as_py():016x}"


def _keys(values: pa.Array) -> pa.Array:
    return pa.array(hash_strings(values), mask=values.is_null().to_numpy(zero_copy_only=False))


def _first(*dates: pa.Array) -> pa.Array:
    return pc.min_element_wise(*dates)


def _of_rows(places: Sequence[int], dates: Sequence[str | None], rows: int) -> pa.Array:
    """Return the first date (string) of each row, given those of some things and their rows; null for a row without."""
    found: dict[int, str] = {}
    for place, date in zip(places, dates, strict=True):
        if date is not None:
            found[place] = min(date, found.get(place, date))
    return pa.array(map(found.get, range(rows)), pa.string())


# In the store ---------------------------------------------------------------------------------------------------------


def add(store: Store, tombstones: Sequence[Tombstone]) -> None:
    """Write tombstones; the same ones again change nothing."""
    rows = sorted((stone.kind, stone.value, stone.radius, stone.date) for stone in tombstones)
    columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    name = xxhash.xxh3_64_hexdigest(repr(rows).encode())
    for part in store.storage.parts():  # a store of facts keeps them too, for the other outputs that use it
        with part.writing(f"{FOLDER}/{name}.parquet") as path:
            writer = ParquetWriter(path, SCHEMA)
            writer.write(pa.table(arrays, SCHEMA))
            writer.close()


def digest(store: Store) -> str:
    """Return what names the tombstones of an output: empty where there are none."""
    names = sorted(_files(store.storage))
    return xxhash.xxh3_64_hexdigest(" ".join(names).encode()) if names else ""


def _files(storage: Storage) -> dict[str, Storage]:
    """Return the files of tombstones by name, and where each is."""
    found = ((one.name, part) for part in storage.parts() for one in part.listing(FOLDER))
    return {name: part for name, part in found if name.endswith(".parquet")}


def load(store: Store, name: str) -> Removed:
    """Return the tombstones of an output; `name` is their digest, for a worker reads them once."""
    return _loaded(store.storage, name) if name else NOTHING


@lru_cache(2)
def _loaded(storage: Storage, name: str) -> Removed:
    tables = []
    for one, part in sorted(_files(storage).items(), key=lambda file: file[0]):
        with part.reading(f"{FOLDER}/{one}") as path:
            tables.append(pq.read_table(path, schema=SCHEMA))
    return of(Tombstone(row["kind"], row["value"], row["date"], row["radius"]) for row in pa.concat_tables(tables).to_pylist())


def of(tombstones: Iterable[Tombstone]) -> Removed:
    """Return tombstones as they are looked up."""
    rows = sorted(tombstones, key=lambda stone: (stone.date, stone.kind, stone.value))
    by = {kind: [stone for stone in rows if stone.kind == kind] for kind in ("sha256", "url", "text", "phash")}
    dates = {name: pa.array([stone.date for stone in by[kind]], pa.string()) for name, kind in _LISTS.items()}
    keys = {kind: pa.array([int(stone.value, 16) for stone in by[kind]], pa.uint64()) for kind in ("url", "text")}
    phashes = tuple((int(stone.value, 16), stone.radius or 0, stone.date) for stone in by["phash"])
    return Removed(pa.array([stone.value for stone in by["sha256"]], pa.string()), keys["url"], keys["text"], phashes, dates)


_LISTS = {"sha256": "sha256", "urls": "url", "texts": "text"}


# What is left of a record ---------------------------------------------------------------------------------------------


def without(table: pa.Table, dates: pa.Array) -> pa.Table:
    """Return decisions in which removed records have one row, with the reason, the date, and the sha256 of the image."""
    gone: Mask = dates.is_valid().to_numpy(zero_copy_only=False)
    if not gone.any():
        return table
    keep = ~gone | (table["text_no"].to_numpy() == 0)
    table, dates, gone = table.filter(pa.array(keep)), dates.filter(pa.array(keep)), gone[keep]
    columns = {}
    for field in table.schema:
        column = combined(table[field.name])
        columns[field.name] = column if field.name in _KEPT else pc.if_else(pa.array(~gone), column, pa.scalar(None, field.type))
    said = {
        "dropped_by": pa.repeat(REMOVED, len(gone)),
        "failed": pa.array([[REMOVED]] * len(gone), pa.list_(pa.string())),
        "not_evaluated": pa.array([[]] * len(gone), pa.list_(pa.string())),
        "key": pa.repeat("", len(gone)),
        "error": pc.binary_join_element_wise(pa.repeat("removed", len(gone)), dates, " "),
    }
    for name, values in said.items():
        columns[name] = pc.if_else(pa.array(gone), values, columns[name])
    return pa.table(columns, table.schema)


def without_texts(batch: Batch, dates: pa.Array) -> Batch:
    """Return base facts in which removed records have no key, url, texts or fields, but still their hashes: these are counted."""
    if dates.null_count == len(dates):
        return batch
    here = dates.is_null()
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in [name for name in ("url", "text", "input") if name in columns]:
        columns[name] = pc.if_else(here, columns[name], pa.scalar(None, columns[name].type))
    if "earlier_texts" in columns:  # facts of an earlier version have none
        earlier = columns["earlier_texts"]
        columns["earlier_texts"] = pc.if_else(here, earlier, _hashes(earlier, here))
    if "more_texts" in columns:
        more = columns["more_texts"]
        columns["more_texts"] = pc.if_else(here, more, without_more(more))
    columns["key"] = pc.if_else(here, columns["key"], "")
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def _hashes(earlier: pa.Array, here: pa.Array) -> pa.Array:
    """Return hashes in the place of the earlier texts of removed records, null for the others."""
    gone = pc.if_else(here, pa.scalar(None, pa.string()), earlier)
    found: dict[int, list[int]] = {}
    for place, key in zip(*_earlier_keys(gone), strict=True):
        found.setdefault(place, []).append(key.as_py())
    return pa.array([json.dumps(found[place]) if place in found else None for place in range(len(gone))], pa.string())


def _earlier_keys(column: pa.Array) -> tuple[list[int], pa.Array]:
    """Return the hash (uint64) of each earlier text, and its row; of a removed record the hashes themselves are there."""
    said = [(place, one) for place, several in enumerate(column.to_pylist()) for one in json.loads(several or "[]")]
    hashes = pa.array([one if isinstance(one, int) else None for _, one in said], pa.uint64())
    texts = pa.array([None if isinstance(one, int) else one["text"] for _, one in said], pa.string())
    return [place for place, _ in said], pc.coalesce(hashes, _keys(normalised(texts)))
