"""One stage's facts of a shard: what the store has, read in step with the rows, and what is added."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP, Stage
from curate.storage.parquet import ParquetWriter


@dataclass
class Stored:
    """One stage's facts of this shard: what the store has, read in step with the rows, and what is added."""

    stage: Stage
    path: Path | None
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        self.schema = pa.schema([pa.field("row", pa.int64()), *self.stage.provides])
        self._batches = pq.ParquetFile(self.path).iter_batches(ROW_GROUP) if self.path else iter(())
        self._ahead = self.schema.empty_table()
        self._added: list[pa.Table] = []
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

    def add(self, table: pa.Table) -> None:
        """Take new facts to be committed."""
        self._added.append(table)

    def write(self, path: Path) -> None:
        """Write what was added, with what was there, sorted by row."""
        known = [pq.ParquetFile(self.path).read().cast(self.schema)] if self.path else []
        merged = pa.concat_tables([*known, *(table.select(self.schema.names).cast(self.schema) for table in self._added)])
        writer = ParquetWriter(path, self.schema, "lz4")
        writer.write(merged.sort_by("row"))
        writer.close()

    def grown(self) -> bool:
        """Return whether there is anything to commit."""
        return bool(self._added)
