"""Taking a finished output over into a merged one: decisions and thumbnails with other numbers, tars and index as they are.

The outputs that are merged are only read. Every task may be done again after a kill.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import Batch, Report, Shard
from curate.core.hashing import file_sha256
from curate.core.verdicts import MERGE_DUPLICATE, REMOVED
from curate.passes import removed
from curate.passes.pack import Block, mark_of
from curate.passes.removal import Rewritten, rewrite_decisions
from curate.passes.texts import Mask
from curate.passes.verdict import combined
from curate.storage.backend import Storage
from curate.storage.links import link_or_copy
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.paths import opened
from curate.storage.samples import index_beside, sample_files
from curate.storage.store import Store

JUDGED = "judge-merged"
"""The folder of the marks of verdicts in a merged output."""


@dataclass(frozen=True)
class Source:
    """An output that is merged, and where its shards and blocks begin in the merged one."""

    out: Storage
    run: str  # the folder of its marks
    first_shard: int
    first_block: int
    unknown: tuple[str, ...] = ()  # filters that others have: it has not evaluated them
    unknown_to_captions: tuple[str, ...] = ()  # those of them that judge synthetic texts too


@dataclass(frozen=True)
class MergeBlock:
    """The task: takes over a block of one output. Samples that a tombstone of another names are dropped in its decisions."""

    store: Store
    run: str
    sources: tuple[Source, ...]
    schema: pa.Schema  # of decisions
    removed: str  # digest of the tombstones of all

    def __call__(self, block: Block) -> Report:
        """Take over one block. Raises RuntimeError when it is not what it was."""
        source = self.sources[bisect_right([one.first_block for one in self.sources], block.index) - 1]
        mark = Store(source.out).mark(source.run, mark_of(block.index - source.first_block))
        if mark is None or block.first_tar is None:
            raise RuntimeError(f"{source.out.root}: the marks of its tars are gone")
        parts = {}
        for name, part in mark.parts.items():
            parts[f"{source.first_shard + int(name):06d}"] = self._verdicts(source, int(name), part)
        files: dict[str, File] = {}
        for number, tar in enumerate(sample_files(mark.files), block.first_tar):
            name = f"shards/{number:05d}{PurePosixPath(tar).suffix}"
            for old, new in ((tar, name), (index_beside(tar), index_beside(name))):
                link_or_copy(source.out, old, self.store.storage, new)
                files[new] = mark.files[old]
        self.store.commit(self.run, mark_of(block.index), Mark(files, mark.counts, made_with=mark.made_with, parts=parts))
        return Report(block.index, sum(part.counts["records"] for part in parts.values()))

    def _verdicts(self, source: Source, shard: int, part: Mark) -> Mark:
        """Take over decisions and thumbnails of a shard."""
        [(old, file)] = part.files.items()
        number, gone = source.first_shard + shard, removed.load(self.store, self.removed)
        name = f"decisions/{number:06d}.parquet"

        def taken(table: pa.Table) -> pa.Table:
            table = _adapted(table, number, source, self.schema)
            return removed.without(table, gone.of_decisions(table)) if self.removed else table

        with source.out.reading(old) as path, self.store.writing(name) as target:
            if file_sha256(path) != file.sha256:
                raise RuntimeError(f"{source.out.url(old)} differs from its manifest")
            found = rewrite_decisions(path, target, taken, self.schema)
        without = pa.array(found.dropped[REMOVED], pa.int64())
        with source.out.reading(old.replace("decisions/", "thumbs/")) as path:
            _write_thumbs(self.store, number, path, without)
        return _committed(self.store, self.run, number, found, part.error)


@dataclass(frozen=True)
class DropDuplicates:
    """The task: drops the records of a shard that an output before this one has too."""

    store: Store
    run: str
    found: str  # name of the file of these records (shard_index, row), ordered

    def __call__(self, shard: Shard) -> Report:
        """Drop them from decisions and thumbnails of one shard; its tars are written again later."""
        records = pq.read_table(opened(self.store.storage.url(self.found)), filters=[("shard_index", "=", shard.index)])
        rows, name = combined(records["row"]), f"decisions/{shard.index:06d}.parquet"
        with self.store.storage.reading(name) as path, self.store.writing(name) as target:
            found = rewrite_decisions(path, target, lambda table: _without_duplicates(table, rows))
        dropped = pa.array(found.dropped[MERGE_DUPLICATE], pa.int64())  # also those that a killed attempt has dropped
        with self.store.storage.reading(f"thumbs/{shard.index:06d}.parquet") as path:
            _write_thumbs(self.store, shard.index, path, dropped)
        before = self.store.mark(self.run, f"{JUDGED}/{shard.index:06d}") or Mark()
        _committed(self.store, self.run, shard.index, found, before.error)
        return Report(shard.index, len(rows))


def _committed(store: Store, run: str, shard: int, found: Rewritten, error: str | None) -> Mark:
    mark = Mark({f"decisions/{shard:06d}.parquet": found.file}, found.counts, error, made_with=found.kept)
    store.commit(run, f"{JUDGED}/{shard:06d}", mark)
    return mark


def _adapted(table: pa.Table, shard: int, source: Source, schema: pa.Schema) -> pa.Table:
    """Return decisions with another number of the shard, and with the columns of all outputs."""
    rows = table.num_rows
    columns = {name: combined(table[name]) for name in table.column_names}
    columns["shard_index"] = pa.array(np.full(rows, shard, np.int32))
    web: Mask = pc.equal(columns["source"], "web").to_numpy(zero_copy_only=False)
    lists = _with_names(columns["not_evaluated"], source.unknown, web)
    columns["not_evaluated"] = _with_names(lists, source.unknown_to_captions, ~web)
    arrays = [columns[field.name].cast(field.type) if field.name in columns else pa.nulls(rows, field.type) for field in schema]
    return pa.table(arrays, schema)


def _with_names(lists: pa.ListArray, names: tuple[str, ...], where: Mask) -> pa.ListArray:
    """Return lists of strings (n) with `names` at the end of those of `where` (bool, n)."""
    if not names or not where.any():
        return lists
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    values = lists.flatten()
    old = np.concatenate([[0], np.cumsum(lengths)])
    new = np.concatenate([[0], np.cumsum(lengths + where * len(names))])
    order = np.empty(new[-1], np.int64)
    order[np.arange(len(values)) + np.repeat(new[:-1] - old[:-1], lengths)] = np.arange(len(values))
    for place in range(len(names)):
        order[new[1:][where] - len(names) + place] = len(values) + place
    pool = pa.concat_arrays([values, pa.array(names, values.type)])
    return pa.ListArray.from_arrays(pa.array(new, pa.int32()), pool.take(pa.array(order)))


def _without_duplicates(table: pa.Table, rows: pa.Array) -> pa.Table:
    """Return decisions in which no text of these records is kept."""
    columns = {name: combined(table[name]) for name in table.column_names}
    here = pc.is_in(columns["row"], value_set=rows)
    falls = pc.and_(here, columns["dropped_by"].is_null())
    columns["dropped_by"] = pc.if_else(falls, MERGE_DUPLICATE, columns["dropped_by"])
    where = falls.to_numpy(zero_copy_only=False)
    columns["failed"] = _with_names(columns["failed"], (MERGE_DUPLICATE,), where).cast(columns["failed"].type)
    columns["sample_key"] = pc.if_else(here, pa.scalar(None, pa.string()), columns["sample_key"])
    return pa.table(list(columns.values()), table.schema)


def _write_thumbs(store: Store, shard: int, path: Path, without: pa.Array) -> None:
    """Write thumbnails from `path` as those of a shard, without those of some rows."""
    file = pq.ParquetFile(path)

    def adapted(batch: Batch) -> pa.Table:
        table = pa.Table.from_batches([batch])
        table = table.filter(pc.invert(pc.is_in(table["row"], value_set=without)))
        place, field = table.schema.get_field_index("shard_index"), table.schema.field("shard_index")
        return table.set_column(place, field, pa.array(np.full(table.num_rows, shard, np.int32)))

    with store.writing(f"thumbs/{shard:06d}.parquet") as target:
        writer = ParquetWriter(target, file.schema_arrow)
        for batch in file.iter_batches():
            writer.write(adapted(batch))
        writer.close()
