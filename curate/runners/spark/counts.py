"""Corpus counts on Spark SQL: Python workers read the partial counts, and results come back through files in `scratch`.

So neither passes through the driver's JVM, and files that are not local need none of Hadoop's connectors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from curate.core.counting import Counting, Grouping
from curate.runners import partials
from curate.storage.backend import storage

_PARTITION = 128 << 20  # bytes of partial counts in a partition of a shuffle
_FILES = 16  # that one Spark task reads, where there are many
_BATCH = 1 << 17  # rows that are exchanged between Python and the JVM at once
_ROWS = pa.schema([("key", pa.int64()), ("value", pa.int64())])


@contextmanager
def spark_counting(session: SparkSession, scratch: str) -> Iterator[Counting]:
    """Open a session with a separate configuration beside `session`."""
    counting = _Session(session.newSession(), scratch)
    try:
        yield counting
    finally:
        counting.close()


class _Session:
    """Group-bys; the executors keep results that several of them use, in memory and on disk."""

    def __init__(self, session: SparkSession, scratch: str) -> None:
        self._session, self._scratch = session, scratch
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(_BATCH))
        self._shared: dict[object, DataFrame] = {}
        self._numbers = count()

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        cores = self._session.sparkContext.defaultParallelism
        parts = max(cores, -(-grouping.files.bytes() // _PARTITION))
        self._session.conf.set("spark.sql.shuffle.partitions", str(parts))
        queries = {"sum": self._sum, "histogram": self._histogram, "distinct": self._distinct, "first": self._first}
        write = functools.partial(_written, self._scratch, f"result-{next(self._numbers)}")
        counted = queries[grouping.kind](grouping).select("key", "value").orderBy("key")
        results = storage(self._scratch)
        for name in sorted(row.name for row in self._named(grouping, counted.mapInArrow(write, "name string").collect)):
            with results.reading(name) as path, pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
                for batch in batches:
                    yield from partials.answer(pa.Table.from_batches([batch]), grouping)
            results.remove([name])

    def _named(self, grouping: Grouping, work: Callable[[], list[Any]]) -> list[Any]:
        """Return what Spark jobs answer that are shown as the merge of these counts."""
        context = self._session.sparkContext
        context.setJobDescription(f"merge: {grouping.kind} by {grouping.key} of {grouping.files.folder.rpartition('/')[2]}")
        try:
            return work()
        finally:
            context.setJobDescription(None)

    def close(self) -> None:
        """Let the executors drop what they keep."""
        for frame in self._shared.values():
            frame.unpersist()

    def _sum(self, grouping: Grouping) -> DataFrame:
        sums = self._shared[grouping.files.folder] if grouping.files.folder in self._shared else self._sums(grouping)
        return sums.where(F.col("value") >= grouping.floor)

    def _histogram(self, grouping: Grouping) -> DataFrame:
        sums = self._once(grouping.files.folder, self._sums(grouping)).where(F.col("value") >= grouping.floor)
        return sums.select(F.col("value").alias("key")).groupBy("key").agg(F.count(F.lit(1)).alias("value"))

    def _distinct(self, grouping: Grouping) -> DataFrame:
        columns = sorted((grouping.key, grouping.other))
        pairs = self._once((grouping.files.folder, *columns), self._read(grouping).select(*columns).distinct())
        counted = pairs.groupBy(F.col(grouping.key).alias("key")).agg(F.count(F.lit(1)).alias("value"))
        return counted.where(F.col("value") >= grouping.floor)

    def _first(self, grouping: Grouping) -> DataFrame:
        grouped = self._read(grouping).groupBy("key").agg(F.min("row").alias("value"), F.count(F.lit(1)).alias("n"))
        return grouped.where(F.col("n") > 1)

    def _sums(self, grouping: Grouping) -> DataFrame:
        return self._read(grouping).groupBy("key").agg(F.sum("n").alias("value"))

    def _once(self, key: object, frame: DataFrame) -> DataFrame:
        if key not in self._shared:
            self._shared[key] = frame.persist()
        return self._shared[key]

    def _read(self, grouping: Grouping) -> DataFrame:
        """Return the partial counts as rows; this process sends only the names of their files."""
        files, names = grouping.files, partials.columns(grouping)
        each = max(1, min(_FILES, len(files) // self._session.sparkContext.defaultParallelism))
        listed = pa.RecordBatch.from_arrays([files.names, files.shards], ["name", "shard"])
        slices = [listed.slice(start, each) for start in range(0, len(files), each)]  # one partition each
        reader = functools.partial(_rows, files.folder, names)
        found = self._session.createDataFrame(pa.Table.from_batches(slices))
        return found.mapInArrow(reader, ", ".join(f"`{name}` bigint" for name in names))


def _rows(folder: str, names: tuple[str, str], files: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in files:
        urls = [f"{folder}/{name}" for name in batch["name"].to_pylist()]
        yield from partials.batches(names, zip(urls, batch["shard"].to_pylist(), strict=True))


def _written(scratch: str, result: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write a partition of a result and yield its file's name: in the order of partitions, and unique to this attempt."""
    first = next(batches, None)
    if first is None:
        return
    context: Any = TaskContext.get()
    name = f"{result}-{context.partitionId():08d}-{context.taskAttemptId()}.arrow"
    with storage(scratch).writing(name) as path, pa.ipc.new_stream(path, _ROWS) as file:
        file.write_batch(_plain(first))
        for batch in batches:
            file.write_batch(_plain(batch))
    yield pa.RecordBatch.from_arrays([pa.array([name])], ["name"])


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch["key"], batch["value"]], schema=_ROWS)
