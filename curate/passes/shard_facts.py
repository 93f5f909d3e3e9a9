"""The facts of one shard: those in the store, read in step with the rows, and those that are added."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP, Shard, Stage
from curate.passes.texts import Mask
from curate.planning.plan import Plan
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store


class ShardFacts:
    """Facts of a plan's stages for one shard. Rows are visited in ascending order, a batch after the other.

    `unstored` has the stages whose facts are computed whenever they are read, by fact.
    """

    def __init__(self, store: Store, plan: Plan, shard: Shard) -> None:
        self._store, self._keys, self._shard = store, plan.keys, shard
        self._held = ExitStack()
        self._paths: dict[str, Path] = {}  # of facts that are held, by name
        self._stages = {stage.name: _StageFacts(stage, self._path(stage)) for stage in plan.stages()}
        self.unstored = {fact.name: stage for stage in plan.stages() if not stage.stored for fact in stage.facts}

    def close(self) -> None:
        """Let go of the files."""
        self._held.close()

    def stored(self, key: str) -> Path | None:
        """Return a path with this shard's facts of a provider, until `close`; None where there are none."""
        name = self._store.facts(key, self._shard.fingerprint)
        if name is not None and name not in self._paths:
            self._paths[name] = self._held.enter_context(self._store.storage.reading(name))
        return None if name is None else self._paths[name]

    def _path(self, stage: Stage) -> Path | None:
        return self.stored(self._keys[stage.name]) if stage.stored else None

    def advance(self, low: int, high: int) -> None:
        """Go on to rows `low` to `high` (exclusive)."""
        for facts in self._stages.values():
            facts.advance(low, high)

    def recall(self, stage: Stage, rows: pa.Array) -> tuple[Mask, dict[str, pa.Array]]:
        """Return on which of some rows of the current batch the stage's facts are in the store, and these facts."""
        known = self._stages[stage.name].known
        where = pc.index_in(rows, value_set=known["row"].combine_chunks())
        columns = {fact.name: known[fact.name].combine_chunks().take(where).cast(fact.type) for fact in stage.facts}
        return (where.is_valid().to_numpy(zero_copy_only=False) if len(rows) else np.zeros(0, np.bool_)), columns

    def add(self, stage: Stage, table: pa.Table) -> None:
        """Take new facts (row, and those of the stage) to be committed, where the stage's facts are stored."""
        if stage.stored:
            self._stages[stage.name].added.append(table)

    def commit(self) -> None:
        """Store what was added, with what is there: of a store that is shared, another run may have added to it meanwhile."""
        for name, facts in self._stages.items():
            if facts.added:
                key = self._keys[name]
                with self._store.writing_facts(key, self._shard.fingerprint) as path:
                    facts.write(path, self.stored(key))


@dataclass
class _StageFacts:
    """One stage's facts of the shard."""

    stage: Stage
    path: Path | None
    added: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.schema = pa.schema([pa.field("row", pa.int64()), *self.stage.provides])
        self._batches = pq.ParquetFile(self.path).iter_batches(ROW_GROUP) if self.path else iter(())
        self._ahead = self.schema.empty_table()
        self.known = self.schema.empty_table()

    def advance(self, low: int, high: int) -> None:
        """Make `known` the stored facts of rows low to high (exclusive)."""
        while not self._ahead.num_rows or self._ahead["row"][-1].as_py() < high:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._ahead = pa.concat_tables([self._ahead, pa.Table.from_batches([batch]).cast(self.schema)])
        inside = pc.and_(pc.greater_equal(self._ahead["row"], low), pc.less(self._ahead["row"], high))
        self.known = self._ahead.filter(inside)
        self._ahead = self._ahead.filter(pc.greater_equal(self._ahead["row"], high))

    def write(self, path: Path, stored: Path | None) -> None:
        """Write what is stored and what was added, sorted by row."""
        merged = pa.concat_tables([table.select(self.schema.names).cast(self.schema) for table in self.added])
        if stored is not None:
            before = pq.ParquetFile(stored).read().cast(self.schema)
            new = pc.invert(pc.is_in(merged["row"], value_set=before["row"].combine_chunks()))
            merged = pa.concat_tables([before, merged.filter(new)])
        writer = ParquetWriter(path, self.schema, "lz4")
        writer.write(merged.sort_by("row"))
        writer.close()
