"""Corpus counts: what each record contributes, the merge over the whole corpus, and the look-up of exact counts.

Each shard's partial counts are committed like any fact. The merge is a group-by on an engine that spills (DuckDB here);
its answer is the small side: sorted 64-bit keys and their values in two memory-mapped files that all workers share.
Counts are exact up to collisions of 64-bit hashes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from curate.contracts import Batch, CorpusCount
from curate.stages.text import Keys, TextStage, Tokens, mix
from curate.store import ParquetWriter, Store, write_json

VERSION = 2
_ROW_BITS = 40  # a place in the corpus is one int64: shard number above, row below
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
    """Merged counts in a folder: keys.u64 sorted, values.i64, and what they are exact from.

    `floor` 1 says that every count is known: what is not found counts exactly 1 (an n-gram of the corpus cannot count less).
    """

    folder: Path
    floor: int

    def values(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the value of each key, 0 where it is below the floor. Queries are searched in sorted order: 4x faster."""
        if not (self.folder / "keys.u64").stat().st_size or not len(keys):  # an empty file cannot be mapped
            return np.zeros(len(keys), np.int64)
        stored = np.memmap(self.folder / "keys.u64", np.uint64, "r")
        values = np.memmap(self.folder / "values.i64", np.int64, "r")
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
    own = (np.int64(shard) << _ROW_BITS) + batch["row"].to_numpy() + 1
    places = [
        None if none or not value or value == here else f"{(value - 1) >> _ROW_BITS}/{(value - 1) & ((1 << _ROW_BITS) - 1)}"
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


def merge(store: Store, counts: Sequence[CorpusCount], shards: Sequence[tuple[int, str]], memory: int) -> dict[str, Lookup]:
    """Merge the partial counts of `shards` (index, fingerprint) and return a Lookup for each count's fact.

    Runs DuckDB within `memory` bytes, spilling to OUT/work; what is already merged is found by its key.
    """
    inputs = xxhash.xxh3_64_hexdigest(json.dumps(list(shards)).encode())
    found: dict[str, Lookup] = {}
    missing = []
    for count in counts:
        described = json.dumps([VERSION, count.kind, count.identity, count.record_from, count.vocabulary, inputs])
        folder = store.out / "counts" / f"{count.fact}-{xxhash.xxh3_64_hexdigest(described.encode())}"
        lookup = load(folder)
        if lookup is None:
            missing.append((count, folder))
        else:
            found[count.fact] = lookup
    if missing:
        with _Merge(store, shards, memory) as merging:
            for count, folder in missing:
                found[count.fact] = merging.run(count, folder)
    return found


def load(folder: Path) -> Lookup | None:
    """Return committed counts, or None."""
    from curate.store import read_json

    meta = read_json(folder / "counts.json")
    return None if meta is None else Lookup(folder, int(meta["floor"]))


class _Merge:
    """One DuckDB session over the partial counts; shared steps (the distinct pairs) run once."""

    def __init__(self, store: Store, shards: Sequence[tuple[int, str]], memory: int) -> None:
        self._store, self._shards = store, shards
        self._memory = memory
        self._made: set[str] = set()

    def __enter__(self) -> _Merge:
        import duckdb

        self._work = self._store.out / "work" / "merge"
        self._work.mkdir(parents=True, exist_ok=True)
        self._con = duckdb.connect()  # in memory, spilling to temp_directory: a file would be written in any case
        self._con.execute(f"set memory_limit='{self._memory // 1_000_000}MB'")
        self._con.execute("set temp_directory=?", [str(self._work)])
        self._con.execute("set preserve_insertion_order=false")
        return self

    def __exit__(self, *problem: object) -> None:
        import shutil

        self._con.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def run(self, count: CorpusCount, folder: Path) -> Lookup:
        """Merge one count into `folder`."""
        floor = count.record_from
        if count.kind == "ngrams":
            least = 1 if count.vocabulary is not None else floor
            # a double holds counts to 2^53 exactly; DuckDB sums integers in 128 bits, at twice the time
            source = f"from {self._partials(count)} group by key having sum(n::double) >= {least}"
            self._once("grams", f"select key, sum(n::double)::bigint as n {source}")
            if count.vocabulary is not None:
                floor = self._least_count(count.vocabulary)
            elif floor == 2:
                floor = 1
            query = f"select key, n as value from grams where n >= {max(2, floor)} order by key"
        elif count.kind in ("first_pair", "first_image"):
            query = self._first(count)
        else:
            pairs = f"pairs_{count.identity}"
            self._once(pairs, f"select distinct image, text from {self._partials(count)}")
            key = "image" if count.kind == "texts_per_image" else "text"
            query = f"select {key} as key, count(*) as value from {pairs} group by 1 having count(*) >= {floor} order by 1"
        self._write(query, folder)
        write_json(folder / "counts.json", {"fact": count.fact, "floor": floor})
        return Lookup(folder, floor)

    def _partials(self, count: CorpusCount) -> str:
        paths = [self._store.facts(partial_name(count), fingerprint) for _, fingerprint in self._shards]
        listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths if path is not None)
        return f"read_parquet([{listed}], filename = {str(count.kind in ('first_pair', 'first_image')).lower()})"

    def _once(self, table: str, query: str) -> None:
        if table not in self._made:
            self._con.execute(f"create table {table} as {query}")
            self._made.add(table)

    def _least_count(self, size: int) -> int:
        """Return the smallest c for which the n-grams with count >= c are at most `size`."""
        total, least = 0, None
        for n, number in self._con.execute("select n, count(*) from grams group by n order by n desc").fetchall():
            total += number
            if total > size:
                break
            least = int(n)
        highest = self._con.execute("select coalesce(max(n), 0) from grams").fetchall()[0][0]
        return int(highest) + 1 if least is None else least

    def _first(self, count: CorpusCount) -> str:
        """Return the query for keys that more than one record has: the first place, plus 1 (0 means none)."""
        self._con.execute("create or replace table place (filename varchar, shard bigint)")
        rows = [(str(self._store.facts(partial_name(count), fingerprint)), index) for index, fingerprint in self._shards]
        self._con.executemany("insert into place values (?, ?)", rows)
        return (
            f"select key, min((shard << {_ROW_BITS}) + row) + 1 as value from {self._partials(count)} "
            "join place using (filename) group by key having count(*) > 1 order by key"
        )

    def _write(self, query: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "keys.u64").open("wb") as keys, (folder / "values.i64").open("wb") as values:
            for batch in self._con.sql(query).to_arrow_reader(100_000):
                keys.write(np.ascontiguousarray(batch["key"].to_numpy(), np.uint64).tobytes())
                values.write(np.ascontiguousarray(batch["value"].to_numpy(zero_copy_only=False), np.int64).tobytes())
