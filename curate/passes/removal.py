"""Taking records out of what is there: decisions, thumbnails, facts and fetched images of a shard, and the tars of a block.

The input is not needed. Every task finds out for itself what it has to do, so that one that was killed is done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import ROW_GROUP, Batch, Report, Shard
from curate.core.hashing import file_sha256
from curate.core.verdicts import REMOVED, TAKEN_OUT
from curate.fetch.image_log import Committed, ImageLog
from curate.passes import judge, removed
from curate.passes.pack import Block, mark_of, staged
from curate.passes.sample_files import Sample, SampleFiles
from curate.storage.marks import File, Mark, Note
from curate.storage.parquet import ParquetWriter
from curate.storage.samples import Kind, index_beside, kind_like, open_samples, sample_files
from curate.storage.store import FETCHED, Store

BASE = "base-"
"""How the names of base facts begin."""

_WITHOUT_ROWS = ("partial_", FETCHED, "crashing_rows")
"""Providers whose files hold hashes or numbers of rows, and nothing of a record that could be told."""


@dataclass(frozen=True)
class RemoveFromShard:
    """The task: takes the records with a tombstone out of all that OUT knows of a shard."""

    store: Store
    run: str
    judged: str  # the folder of the marks of the verdicts
    removed: str  # digest of the tombstones

    def __call__(self, shard: Shard) -> Report:
        """Take records out of one shard. The decisions come first, for they say which these are."""
        rows = self._decisions(shard)
        self._thumbs(shard, rows)
        for key in self.store.storage.folders("facts"):
            if key.startswith(BASE):
                self._rewrite(key, shard, lambda part: _without_texts(part, rows))
            elif not key.startswith(_WITHOUT_ROWS):
                self._rewrite(key, shard, lambda part: _without_rows(part, rows))
        if shard.on_the_web:
            self._fetched(shard, rows)
        return Report(shard.index, len(rows), {}, {})

    def _decisions(self, shard: Shard) -> pa.Array:
        """Take removed records out of the decisions; return the rows of all that were ever removed."""
        name, gone = f"decisions/{shard.index:06d}.parquet", removed.load(self.store, self.removed)
        mark_name = f"{self.judged}/{shard.index:06d}"
        with self.store.storage.reading(name) as path, self.store.writing(name) as target:
            found = rewrite_decisions(path, target, lambda table: removed.without(table, gone.of_decisions(table)))
        before = self.store.mark(self.run, mark_name) or Mark()
        self.store.commit(
            self.run, mark_name, before._replace(files={name: found.file}, counts=found.counts, made_with=found.kept)
        )
        return pa.array(found.dropped[REMOVED], pa.int64())

    def _thumbs(self, shard: Shard, rows: pa.Array) -> None:
        name = f"thumbs/{shard.index:06d}.parquet"
        with self.store.storage.reading(name) as path, self.store.writing(name) as target:
            _write(target, pq.ParquetFile(path), lambda part: _without_rows(part, rows))

    def _rewrite(self, key: str, shard: Shard, change: Callable[[Batch], Batch]) -> None:
        """Change the facts of a provider for a shard, where there are any."""
        mark = self.store.mark_of_facts(key, shard.fingerprint)
        if mark is None:
            return
        [name] = mark.files
        note = Note(dict(mark.counts), mark.error)
        with self.store.storage.reading(name) as path, self.store.writing_facts(key, shard.fingerprint, note) as target:
            _write(target, pq.ParquetFile(path), change, "lz4")

    def _fetched(self, shard: Shard, rows: pa.Array) -> None:
        """Overwrite the bytes of fetched images that only removed records have: every other image stays where it is."""
        for piece in ImageLog(self.store, shard).pieces():
            with self.store.storage.reading(piece.facts) as path:
                facts = pq.read_table(path, columns=["row", "offset", "bytes"])
            gone = pc.is_in(facts["row"], value_set=rows)
            of_others = facts.filter(pc.invert(gone))["offset"].combine_chunks().drop_null()
            alone = pc.and_(pc.and_(gone, facts["offset"].is_valid()), pc.invert(pc.is_in(facts["offset"], value_set=of_others)))
            places = facts.filter(alone).select(["offset", "bytes"]).to_pylist()
            if places and self.store.storage.size(piece.tar) == piece.tar_bytes:
                self._erase(piece, [(place["offset"], place["bytes"]) for place in places])

    def _erase(self, piece: Committed, places: list[tuple[int, int]]) -> None:
        with self.store.storage.reading(piece.tar) as path, self.store.writing(piece.tar) as target:
            shutil.copyfile(path, target)
            with target.open("r+b") as file:
                for offset, size in places:
                    file.seek(offset)
                    file.write(bytes(size))


@dataclass(frozen=True)
class RemoveFromBlock:
    """The task: writes the tars of a block again without the samples that its decisions do not keep any more."""

    store: Store
    run: str
    judged: str

    def __call__(self, block: Block) -> Report:
        """Write one block. Its mark gets the marks of its shards as they are now."""
        mark = self.store.mark(self.run, mark_of(block.index))
        if mark is None:
            return Report(block.index, 0, {}, {})
        verdicts = {name: self.store.mark(self.run, f"{self.judged}/{name}") or part for name, part in mark.parts.items()}
        keys = self._kept(verdicts)
        files, samples, modes = mark.files, 0, mark.counts
        names = sample_files(mark.files)
        in_tars = [mark.files[name].samples or 0 for name in names]
        if sum(in_tars) != len(keys):
            # of several tars all but the last are full, and one is not too small for fewer samples
            where = staged(block.index, verdicts)
            with SampleFiles(self.store, where, max(in_tars, default=1), self._kind(names[0])) as tars:
                for sample in self._samples(names):
                    if sample.packed.key in keys:
                        tars.add(sample)
                tars.close()
            files, samples, modes = tars.files, tars.samples, tars.modes
        self.store.commit(self.run, mark_of(block.index), mark._replace(files=files, counts=modes, parts=verdicts))
        return Report(block.index, samples, {}, {})

    def _kept(self, verdicts: dict[str, Mark]) -> set[str]:
        found: set[str] = set()
        for name in verdicts:
            with self.store.storage.reading(f"decisions/{name}.parquet") as path:
                found.update(pq.read_table(path, columns=["sample_key"])["sample_key"].drop_null().to_pylist())
        return found

    def _kind(self, name: str) -> Kind:
        with self.store.storage.reading(name) as path:
            return kind_like(path, name)

    def _samples(self, names: Sequence[str]) -> Iterator[Sample]:
        """Yield the samples of some files as they are."""
        reading = self.store.storage.reading
        for name in names:
            with reading(name) as path, reading(index_beside(name)) as rows, open_samples(path, name) as reader:
                known = {row["key"]: row for row in pq.read_table(rows, columns=["key", "original_key", "sha256"]).to_pylist()}
                for packed in reader:
                    row = known[packed.key]
                    yield Sample(packed, row["original_key"], row["sha256"], json.loads(packed.about).get("mode"))


@dataclass(frozen=True)
class Rewritten:
    """Decisions that were written again: the file, its counts, the hash of those kept, and the rows dropped by no filter."""

    file: File
    counts: dict[str, int]
    kept: str
    dropped: dict[str, list[int]]  # by what dropped them (curate.core.verdicts.TAKEN_OUT)


def rewrite_decisions(
    path: Path, target: Path, change: Callable[[pa.Table], pa.Table], schema: pa.Schema | None = None
) -> Rewritten:
    """Write the decisions at `path` to `target`, after a change to tables of whole records. `schema` is of the result."""
    tally, kept = dict(judge.EMPTY), xxhash.xxh3_128()
    dropped: dict[str, list[int]] = {reason: [] for reason in TAKEN_OUT}
    file = pq.ParquetFile(path)
    writer = ParquetWriter(target, schema or file.schema_arrow)
    for table in _whole_records(file):
        left = change(table)
        writer.write(left)
        judge.count(tally, left)
        judge.update_kept(kept, left)
        for reason, rows in dropped.items():
            rows += left.filter(pc.equal(left["dropped_by"], reason))["row"].to_pylist()
    writer.close()
    written = File(target.stat().st_size, file_sha256(target), tally["kept"])
    return Rewritten(written, tally, kept.hexdigest(), dropped)


def _whole_records(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Yield decisions in tables that end with a record: all of its texts are in one."""
    held: pa.Table | None = None
    for batch in file.iter_batches(ROW_GROUP):
        table = pa.Table.from_batches([batch]) if held is None else pa.concat_tables([held, pa.Table.from_batches([batch])])
        rows = table["row"].to_numpy()
        cut = int(np.searchsorted(rows, rows[-1]))
        held = table.slice(cut)
        if cut:
            yield table.slice(0, cut).combine_chunks()
    if held is not None:
        yield held.combine_chunks()


def _without_rows(part: Batch, rows: pa.Array) -> Batch:
    return part.filter(pc.invert(pc.is_in(part["row"], value_set=rows)))


def _without_texts(part: Batch, rows: pa.Array) -> Batch:
    gone = pc.is_in(part["row"], value_set=rows)
    return removed.without_texts(part, pc.if_else(gone, REMOVED, pa.scalar(None, pa.string())))


def _write(
    target: Path, file: pq.ParquetFile, change: Callable[[Batch], Batch], compression: Literal["zstd", "lz4"] = "zstd"
) -> None:
    writer = ParquetWriter(target, file.schema_arrow, compression)
    for batch in file.iter_batches(ROW_GROUP):
        writer.write(pa.Table.from_batches([change(batch)]))
    writer.close()
