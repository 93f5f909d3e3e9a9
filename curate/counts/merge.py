"""The merge of the partial counts of all shards, on the shuffle of the runner's engine.

Each shard's partial counts are committed like any fact. The result is much smaller: sorted 64-bit keys and their values,
in two memory-mapped files that all workers share. Counts are exact up to collisions of 64-bit hashes.
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

from curate.core.contracts import Runner
from curate.core.counting import CorpusCount, Counting, Grouping, PartialCounts
from curate.core.errors import OutputError
from curate.core.hashing import code_of
from curate.counts.lookup import Lookup, load
from curate.counts.partial import partial_name
from curate.storage.backend import Storage
from curate.storage.store import Store

_SCRATCH = "work/merge"


@dataclass(frozen=True)
class Engine:
    """Where corpus counts are merged: a runner, and how many bytes of memory it may use in this process."""

    runner: Runner
    memory: int


@dataclass(frozen=True)
class Scanned:
    """The shards that are merged: fingerprints (uint64) and indexes (int64), in order."""

    fingerprints: npt.NDArray[np.uint64]
    indexes: npt.NDArray[np.int64]

    def digest(self) -> str:
        """Return a hash of them."""
        return xxhash.xxh3_64_hexdigest(self.fingerprints.tobytes() + self.indexes.tobytes())


def merge(store: Store, counts: Sequence[CorpusCount], scanned: Scanned, engine: Engine) -> dict[str, Lookup]:
    """Merge the partial counts of the scanned shards and return a Lookup for each count's fact.

    Counts that were merged before are found by their names, and not merged again.
    """
    inputs = scanned.digest()
    found: dict[str, Lookup] = {}
    missing = []
    for count in counts:
        described = json.dumps([partial_name(count) if code_of(type(count)) else count.version, *count.described(), inputs])
        name = f"{count.fact}-{xxhash.xxh3_64_hexdigest(described.encode())}"
        lookup = load(store.storage, name)
        if lookup is None:
            missing.append((count, name))
        else:
            found[count.fact] = lookup
    if missing:
        files = {name: _partials(store, name, scanned) for name in {partial_name(count) for count, _ in missing}}
        with _session(store, engine) as session:
            for count, name in missing:
                try:
                    found[count.fact] = _merged(count, files[partial_name(count)], session, store, name)
                except Exception as error:  # each engine has its own for a file that it cannot read
                    _check_partials(store, partial_name(count), scanned)
                    raise error
    return found


def _partials(store: Store, provider: str, scanned: Scanned) -> PartialCounts:
    return store.committed(provider).files(store.storage.url(f"facts/{provider}"), scanned.fingerprints, scanned.indexes)


def _check_partials(store: Store, provider: str, scanned: Scanned) -> None:
    """Raise OutputError if partial counts are not what their marks say, and forget these: the next run counts them again."""
    there = scanned.fingerprints[store.committed(provider).holds(scanned.fingerprints)].tolist()
    damaged = [name for name in (f"{one:016x}" for one in there) if store.mark_of_facts(provider, name) is None]
    for name in damaged:
        store.forget_facts(provider, name)
    if damaged:
        raise OutputError(f"partial counts of {len(damaged)} shards are damaged ({provider}); run again to count these again")


def _merged(count: CorpusCount, files: PartialCounts, session: Counting, store: Store, name: str) -> Lookup:
    session = session if len(files) else _NoFiles()
    grouping, floor = count.grouping(files, session)
    digest = _write(session.count(grouping), store.storage, name)
    store.write_json(f"counts/{name}/counts.json", {"fact": count.fact, "floor": floor, "digest": digest})
    return Lookup(store.storage, name, floor, digest)


@contextmanager
def _session(store: Store, engine: Engine) -> Iterator[Counting]:
    """Open a session on the engine; what it spilled to OUT/work is removed at the end."""
    try:
        with engine.runner.counting(store.storage.url(_SCRATCH), engine.memory) as session:
            yield session
    finally:
        store.storage.remove_folder(_SCRATCH)


@dataclass(frozen=True)
class _NoFiles:
    """The session of a corpus without partial counts, since some engines cannot read an empty list of files."""

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield nothing."""
        return iter(())


def _write(batches: Iterator[pa.RecordBatch], storage: Storage, name: str) -> str:
    """Write merged counts; return a hash of them."""
    digests = xxhash.xxh3_128(), xxhash.xxh3_128()
    with (
        storage.writing(f"counts/{name}/keys.u64") as keys_path,
        storage.writing(f"counts/{name}/values.i64") as values_path,
        keys_path.open("wb") as keys,
        values_path.open("wb") as values,
    ):
        for batch in batches:
            columns = (
                np.ascontiguousarray(batch["key"].to_numpy(), np.uint64).tobytes(),
                np.ascontiguousarray(batch["value"].to_numpy(zero_copy_only=False), np.int64).tobytes(),
            )
            for file, digest, column in zip((keys, values), digests, columns, strict=True):
                file.write(column)
                digest.update(column)
    return "".join(digest.hexdigest() for digest in digests)
