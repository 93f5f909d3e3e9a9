"""Corpus counts: what each record contributes, the merge over the whole corpus, and the look-up of exact counts.

Each shard's partial counts are committed like any fact. The merge is a group-by on the shuffle of the runner's engine;
its answer is the small side: sorted 64-bit keys and their values in two memory-mapped files that all workers share.
Counts are exact up to collisions of 64-bit hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from curate.core.contracts import CorpusCount, Counting, Grouping, PartialCounts, Runner
from curate.counts.lookup import Lookup, load
from curate.counts.partial import VERSION, partial_name
from curate.storage.backend import Storage
from curate.storage.store import Store

_SCRATCH = "work/merge"


@dataclass(frozen=True)
class Engine:
    """Where corpus counts are merged: a runner, and the bytes of memory that it may take in this process."""

    runner: Runner
    memory: int


@dataclass(frozen=True)
class Scanned:
    """The shards whose partial counts are merged: fingerprints (uint64) and indexes (int64), in order."""

    fingerprints: npt.NDArray[np.uint64]
    indexes: npt.NDArray[np.int64]

    def digest(self) -> str:
        """Return what names them."""
        return xxhash.xxh3_64_hexdigest(self.fingerprints.tobytes() + self.indexes.tobytes())


def merge(store: Store, counts: Sequence[CorpusCount], scanned: Scanned, engine: Engine) -> dict[str, Lookup]:
    """Merge the partial counts of the scanned shards and return a Lookup for each count's fact.

    What is already merged is found by its key.
    """
    inputs = scanned.digest()
    found: dict[str, Lookup] = {}
    missing = []
    for count in counts:
        described = json.dumps([VERSION, count.kind, count.identity, count.record_from, count.vocabulary, inputs])
        name = f"{count.fact}-{xxhash.xxh3_64_hexdigest(described.encode())}"
        lookup = load(store.storage, name)
        if lookup is None:
            missing.append((count, name))
        else:
            found[count.fact] = lookup
    if missing:
        kinds = dict.fromkeys(partial_name(count) for count, _ in missing)
        files = {kind: _partials(store, kind, scanned) for kind in kinds}
        with _session(store, engine) as session:
            for count, name in missing:
                found[count.fact] = _Merge(session, count, files[partial_name(count)]).into(store, name)
    return found


def _partials(store: Store, kind: str, scanned: Scanned) -> PartialCounts:
    return store.committed(kind).files(store.storage.url(f"facts/{kind}"), scanned.fingerprints, scanned.indexes)


@contextmanager
def _session(store: Store, engine: Engine) -> Iterator[Counting]:
    """Give a session of the engine; what it spills to OUT/work is gone with it."""
    try:
        with engine.runner.counting(store.storage.url(_SCRATCH), engine.memory) as session:
            yield session
    finally:
        store.storage.remove_folder(_SCRATCH)


@dataclass(frozen=True)
class _Merge:
    """The merge of one count: its group-bys, and its two files."""

    session: Counting
    count: CorpusCount
    files: PartialCounts

    def into(self, store: Store, name: str) -> Lookup:
        """Merge into the folder of that name."""
        count, floor = self.count, self.count.record_from
        if count.kind == "ngrams":
            if count.vocabulary is not None:
                floor = self._least_count(count.vocabulary)
            elif floor == 2:
                floor = 1
            grouping = Grouping("sum", self.files, floor=max(2, floor))
        elif count.kind in ("first_pair", "first_image"):
            grouping = Grouping("first", self.files, other="row")
        else:
            key, other = ("image", "text") if count.kind == "texts_per_image" else ("text", "image")
            grouping = Grouping("distinct", self.files, key, other, floor)
        self._write(grouping, store.storage, name)
        store.write_json(f"counts/{name}/counts.json", {"fact": count.fact, "floor": floor})
        return Lookup(store.storage, name, floor)

    def _least_count(self, size: int) -> int:
        """Return the smallest c for which the n-grams with count >= c are at most `size`."""
        sums: list[tuple[int, int]] = []
        for batch in self._counted(Grouping("histogram", self.files)):
            sums += zip(batch["key"].to_pylist(), batch["value"].to_pylist(), strict=True)
        total, least = 0, sums[-1][0] + 1 if sums else 1
        for n, number in reversed(sums):
            total += number
            if total > size:
                break
            least = n
        return least

    def _counted(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        return self.session.count(grouping) if self.files else iter(())

    def _write(self, grouping: Grouping, storage: Storage, name: str) -> None:
        with (
            storage.writing(f"counts/{name}/keys.u64") as keys_path,
            storage.writing(f"counts/{name}/values.i64") as values_path,
            keys_path.open("wb") as keys,
            values_path.open("wb") as values,
        ):
            for batch in self._counted(grouping):
                keys.write(np.ascontiguousarray(batch["key"].to_numpy(), np.uint64).tobytes())
                values.write(np.ascontiguousarray(batch["value"].to_numpy(zero_copy_only=False), np.int64).tobytes())
