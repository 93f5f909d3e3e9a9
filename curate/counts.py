"""Corpus counts: what each record contributes, the merge over the whole corpus, and the look-up of exact counts.

Each shard's partial counts are committed like any fact. The merge is a group-by on the shuffle of the runner's engine;
its answer is the small side: sorted 64-bit keys and their values in two memory-mapped files that all workers share.
Counts are exact up to collisions of 64-bit hashes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from curate.contracts import PLACE_BITS, Batch, CorpusCount, Counting, Grouping, PartialCounts, Runner
from curate.stages.text import Keys, TextStage, Tokens, mix
from curate.storage import Storage, local_copy
from curate.store import ParquetWriter, Store

VERSION = 2
_SCRATCH = "work/merge"
_FILES = ("keys.u64", "values.i64")
_RUN = 4_000_000  # keys held by a builder before they are reduced and written: bounds its memory


def image_key(batch: Batch | pa.Table, identity: str) -> pa.Array:
    """Return the 64-bit key of each image: url else content hash, or content hash alone; null where there is neither."""
    import pyarrow.compute as pc

    if identity == "content":
        return batch["content_key"]
    return pc.coalesce(batch["url_key"], batch["content_key"])


def pair_key(batch: Batch | pa.Table, count: CorpusCount) -> pa.Array:
    """Return the key under which a record is a duplicate: of image and text, or of the image alone."""
    image = image_key(batch, count.identity)
    if count.kind == "first_image":
        return image
    valid = image.is_valid().to_numpy(zero_copy_only=False) & batch["text_key"].is_valid().to_numpy(zero_copy_only=False)
    mixed = mix(image.fill_null(0).to_numpy(), batch["text_key"].fill_null(0).to_numpy())
    return pa.array(mixed, pa.uint64(), mask=~valid)


def partial_name(count: CorpusCount) -> str:
    """Return what the partial counts of a corpus count are stored under: thresholds and floors have no part in it."""
    kind = {"texts_per_image": "pairs", "images_per_text": "pairs"}.get(count.kind, count.kind)
    return f"partial_{kind}-{'any' if kind == 'ngrams' else count.identity}-v{VERSION}.{TextStage.version}"


class Partial:
    """Collects one shard's contribution to a count and writes it in sorted, reduced runs."""

    def __init__(self, count: CorpusCount, path: Path) -> None:
        self._count = count
        kinds = {"ngrams": ("key", "n"), "first_pair": ("key", "row"), "first_image": ("key", "row")}
        self._names = kinds.get(count.kind, ("image", "text"))
        second = pa.uint64() if self._names[1] == "text" else pa.int64()
        self._writer = ParquetWriter(path, pa.schema([(self._names[0], pa.uint64()), (self._names[1], second)]), "lz4")
        self._held: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._size = 0

    def add(self, batch: Batch, words: Tokens) -> None:
        """Add a batch of facts (columns row, url_key, content_key, text_key) and the words of its texts."""
        if self._count.kind == "ngrams":
            bigrams, inside = words.bigrams()
            keys = np.concatenate([words.words, bigrams[inside]])
            self._hold(keys, np.ones(0, np.int64))
            return
        if self._count.kind in ("first_pair", "first_image"):
            left, right = pair_key(batch, self._count), batch["row"]
        else:
            left, right = image_key(batch, self._count.identity), batch["text_key"]
        both = left.is_valid().to_numpy(zero_copy_only=False) & right.is_valid().to_numpy(zero_copy_only=False)
        self._hold(left.fill_null(0).to_numpy()[both], right.fill_null(0).to_numpy()[both])

    def _hold(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        self._held.append((left, right))
        self._size += len(left)
        if self._size >= _RUN:
            self._flush()

    def _flush(self) -> None:
        left = np.concatenate([item[0] for item in self._held]) if self._held else np.empty(0, np.uint64)
        if self._count.kind == "ngrams":
            left, right = np.unique(left, return_counts=True)
        else:
            right = np.concatenate([item[1] for item in self._held]) if self._held else np.empty(0, np.uint64)
            left, right = _distinct(left, right, first=self._names[1] == "row")
        self._writer.write(pa.table({self._names[0]: left, self._names[1]: right}, schema=self._writer.schema))
        self._held, self._size = [], 0

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()


def _distinct(left: npt.NDArray[Any], right: npt.NDArray[Any], *, first: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the distinct pairs, sorted; for `first` each left with its two smallest rights (two say: not the only one)."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    new = np.ones(len(left), np.bool_)
    new[1:] = left[1:] != left[:-1]
    if first:
        new[1:] |= new[:-1]
    else:
        new[1:] |= right[1:] != right[:-1]
    return left[new], right[new]


@dataclass(frozen=True)
class Lookup:
    """Merged counts in a folder of an output: keys.u64 sorted, values.i64, and what they are exact from.

    `floor` 1 says that every count is known: what is not found counts exactly 1 (an n-gram of the corpus cannot count less).
    All processes of a node map the same two files: those of the output, or of a copy that the first of them makes.
    """

    storage: Storage
    name: str
    floor: int

    def values(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the value of each key, 0 where it is below the floor. Queries are searched in sorted order: 4x faster."""
        stored, values = _mapped(self.storage, self.name)
        if not len(stored) or not len(keys):
            return np.zeros(len(keys), np.int64)
        order = np.argsort(keys)
        ordered = keys[order]
        new = np.ones(len(keys), np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        wanted = ordered[new]
        where = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        answers = np.where(stored[where] == wanted, values[where], 0)
        found = np.empty(len(keys), np.int64)
        found[order] = np.repeat(answers, np.diff(np.flatnonzero(new), append=len(keys)))
        return found


@functools.lru_cache(16)
def _mapped(storage: Storage, name: str) -> tuple[Keys, npt.NDArray[np.int64]]:
    folder = local_copy(storage, f"counts/{name}", _FILES)
    if not (folder / "keys.u64").stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.memmap(folder / "keys.u64", np.uint64, "r"), np.memmap(folder / "values.i64", np.int64, "r")


def lookup_fact(count: CorpusCount, lookup: Lookup, batch: Batch, words: Tokens, shard: int) -> pa.Array:
    """Return the count's fact for a batch of base facts of shard number `shard`.

    Null below the floor and where a record contributes nothing.
    """
    if count.kind == "ngrams":
        return _rarest(lookup, words)
    if count.kind in ("first_pair", "first_image"):
        keys = pair_key(batch, count)
    else:
        keys = batch["text_key"] if count.kind == "images_per_text" else image_key(batch, count.identity)
    missing = keys.is_null().to_numpy(zero_copy_only=False)
    values = lookup.values(keys.fill_null(0).to_numpy())
    if count.kind not in ("first_pair", "first_image"):
        return pa.array(values, pa.int64(), mask=missing | (values == 0))
    own = (np.int64(shard) << PLACE_BITS) + batch["row"].to_numpy() + 1
    places = [
        None if none or not value or value == here else f"{(value - 1) >> PLACE_BITS}/{(value - 1) & ((1 << PLACE_BITS) - 1)}"
        for none, value, here in zip(missing.tolist(), values.tolist(), own.tolist(), strict=True)
    ]
    return pa.array(places, pa.string())


def _rarest(lookup: Lookup, words: Tokens) -> pa.Array:
    """Return the smallest count of any unigram or bigram of each text: below the floor 0, or 1 where that is certain.

    No word is rarer than a bigram that it stands in, so words are looked up only where they stand alone.
    """
    texts = len(words.starts) - 1
    if not len(words.words):
        return pa.nulls(texts, pa.int64())
    bigrams, inside = words.bigrams()
    lengths = np.diff(words.starts)
    alone = words.starts[:-1][lengths == 1]
    counts = lookup.values(np.concatenate([bigrams[inside], words.words[alone]]))
    counts[counts == 0] = 1 if lookup.floor == 1 else 0
    smallest = np.full(len(words.words), np.iinfo(np.int64).max)
    smallest[:-1][inside] = counts[: len(counts) - len(alone)]
    smallest[alone] = counts[len(counts) - len(alone) :]
    rarest = np.zeros(texts, np.int64)
    rarest[lengths > 0] = np.minimum.reduceat(smallest, words.starts[:-1][lengths > 0])
    return pa.array(rarest, pa.int64(), mask=lengths == 0)


@dataclass(frozen=True)
class Engine:
    """Where corpus counts are merged: a runner, and the bytes of memory that it may take in this process."""

    runner: Runner
    memory: int


@dataclass(frozen=True)
class Scanned:
    """The shards whose partial counts are merged: fingerprints (uint64) and indexes (int64), in order."""

    prints: npt.NDArray[np.uint64]
    indexes: npt.NDArray[np.int64]

    def digest(self) -> str:
        """Return what names them."""
        return xxhash.xxh3_64_hexdigest(self.prints.tobytes() + self.indexes.tobytes())


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
    return store.committed(kind).files(store.storage.url(f"facts/{kind}"), scanned.prints, scanned.indexes)


def load(storage: Storage, name: str) -> Lookup | None:
    """Return the committed counts of an output, or None."""
    meta = storage.read(f"counts/{name}/counts.json")
    return None if meta is None else Lookup(storage, name, int(json.loads(meta)["floor"]))


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
