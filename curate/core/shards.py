"""The shards of an input, a million of them in some hundred megabytes: columns, made into objects one by one."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count, islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.core.contracts import Shard

_CHUNK = 8192

_SCHEMA = pa.schema(
    [
        ("url", pa.binary()),  # a local name need not be UTF-8
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("size", pa.int64()),
        ("fingerprint", pa.uint64()),
        ("begin", pa.int64()),  # the part, null for a whole file
        ("end", pa.int64()),
        ("columns", pa.int32()),  # place of the roles of its columns in a list beside
        ("limit", pa.int64()),
        ("on_the_web", pa.bool_()),
        ("form", pa.int32()),  # its place in another such list
    ]
)


LIST_SCHEMA = pa.schema([pa.field(f.name, pa.string()) if f.name in ("kind", "columns", "form") else f for f in _SCHEMA])
"""Of a list of shards in a file: `columns` is JSON."""


class Shards(Sequence[Shard]):
    """Shards in order; the index of each is its position."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self.left_aside: list[str] = []  # files beside them that are no input, and why: a line each
        columns: dict[tuple[tuple[str, str], ...], int] = {}  # few kinds of tables in one input
        forms: dict[str, int] = {}
        stream = iter(shards)
        self._chunks: list[pa.RecordBatch] = []
        while some := list(islice(stream, _CHUNK)):
            places = [columns.setdefault(shard.columns, len(columns)) for shard in some]
            self._chunks.append(_packed(some, places, [forms.setdefault(shard.form, len(forms)) for shard in some]))
        self._columns, self._forms = list(columns), list(forms)
        self._starts = np.cumsum([0, *map(len, self._chunks)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> list[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | list[Shard]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        number = bisect_right(self._starts, place) - 1
        inside = place - self._starts[number]
        return self._shard(place, self._chunks[number].slice(inside, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Shard]:
        for start, chunk in zip(self._starts, self._chunks, strict=False):
            for inside, row in enumerate(chunk.to_pylist()):
                yield self._shard(start + inside, row)

    def at(self, places: npt.NDArray[np.int64]) -> Iterator[Shard]:
        """Yield the shards at some places, which ascend; objects are made as they are taken."""
        for start, chunk in zip(self._starts, self._chunks, strict=False):
            low, high = np.searchsorted(places, (start, start + len(chunk)))
            if low < high:
                some = places[low:high]
                for place, row in zip(some.tolist(), chunk.take(pa.array(some - start)).to_pylist(), strict=True):
                    yield self._shard(place, row)

    def _shard(self, index: int, row: dict[str, Any]) -> Shard:
        return _shard(index, row, self._columns[row["columns"]], self._forms[row["form"]])

    @cached_property
    def fingerprints(self) -> npt.NDArray[np.uint64]:
        """Return the fingerprints."""
        return np.concatenate([np.empty(0, np.uint64), *(chunk["fingerprint"].to_numpy() for chunk in self._chunks)])

    @cached_property
    def on_the_web(self) -> npt.NDArray[np.bool_]:
        """Return which of them hold URLs, not image bytes."""
        found = (chunk["on_the_web"].to_numpy(zero_copy_only=False) for chunk in self._chunks)
        return np.concatenate([np.empty(0, np.bool_), *found])

    @cached_property
    def digest(self) -> str:
        """Return what names this input: a hash of the fingerprints in order, 32 hex digits."""
        return xxhash.xxh3_128_hexdigest(self.fingerprints.tobytes())

    def forms(self) -> dict[str, int]:
        """Return how many files are written in each way that a source found out: counted by their first parts."""
        counts = np.zeros(len(self._forms), np.int64)
        for chunk in self._chunks:
            first = pc.equal(pc.fill_null(chunk["begin"], 0), 0).to_numpy(zero_copy_only=False)
            counts += np.bincount(chunk["form"].to_numpy()[first], minlength=len(counts))
        return {form: count for form, count in zip(self._forms, counts.tolist(), strict=True) if form}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all that is known of them, in batches of LIST_SCHEMA (see `listed`)."""
        lists = {"columns": pa.array([json.dumps(roles) for roles in self._columns], pa.string())}
        lists["form"] = pa.array(self._forms, pa.string())
        for chunk in self._chunks:
            arrays = [lists[name].take(chunk[name]) if name in lists else chunk[name] for name in LIST_SCHEMA.names]
            yield pa.RecordBatch.from_arrays(
                [array.cast(field.type) for array, field in zip(arrays, LIST_SCHEMA, strict=True)], schema=LIST_SCHEMA
            )

    def bytes(self) -> int:
        """Return the size of all of them."""
        return sum(int(np.sum(chunk["size"].to_numpy())) for chunk in self._chunks)


def listed(batches: Iterable[pa.RecordBatch]) -> Iterator[Shard]:
    """Yield the shards that `Shards.batches` described."""
    places = count()
    for batch in batches:
        for row in batch.to_pylist():
            columns = tuple((role, name) for role, name in json.loads(row["columns"]))
            yield _shard(next(places), row, columns, row.get("form", ""))  # lists of earlier versions have no forms


def _shard(index: int, row: dict[str, Any], columns: tuple[tuple[str, str], ...], form: str) -> Shard:
    part = None if row["begin"] is None else (row["begin"], row["end"])
    url = row["url"].decode("utf-8", "surrogatepass")
    fingerprint = f"{row['fingerprint']:016x}"
    return Shard(index, url, row["kind"], row["size"], fingerprint, part, columns, row["limit"], row["on_the_web"], form)


def _packed(shards: list[Shard], columns: list[int], forms: list[int]) -> pa.RecordBatch:
    begins = [None if shard.part is None else shard.part[0] for shard in shards]
    ends = [None if shard.part is None else shard.part[1] for shard in shards]
    fingerprints = [int(shard.fingerprint, 16) for shard in shards]
    urls = [shard.url.encode("utf-8", "surrogatepass") for shard in shards]
    found = [urls, [shard.kind for shard in shards], [shard.size for shard in shards], fingerprints]
    found += [begins, ends, columns, [shard.limit for shard in shards], [shard.on_the_web for shard in shards], forms]
    arrays = [pa.array(values, field.type) for values, field in zip(found, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
