"""Corpus counts on Spark SQL: partial counts are read by Python workers, answers come back through files in `scratch`.

Neither goes through the driver's JVM, nor needs Hadoop's connectors where the files are not local.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
_FILES = 16  # that a Spark task reads, where there are many
_BATCH = 1 << 17  # rows that go between Python and the JVM at once
_ROWS = pa.schema([("key", pa.int64()), ("value", pa.int64())])


@contextmanager
def spark_counting(session: SparkSession, scratch: str) -> Iterator[Counting]:
    """Open a session of its own configuration beside `session`."""
    counting = _Session(session.newSession(), scratch)
    try:
        yield counting
    finally:
        counting.close()


class _Session:
    """Group-bys; shared steps are kept by the executors, in memory and on disk."""

    def __init__(self, session: SparkSession, scratch: str) -> None:
        self._session, self._scratch = session, scratch
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(_BATCH))
        self._made: dict[object, DataFrame] = {}
        self._numbers = count()

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        cores = self._session.sparkContext.defaultParallelism
        parts = max(cores, -(-grouping.files.bytes() // _PARTITION))
        self._session.conf.set("spark.sql.shuffle.partitions", str(parts))
        made = {"sum": self._sum, "histogram": self._histogram, "distinct": self._distinct, "first": self._first}
        write = functools.partial(_written, self._scratch, f"answer-{next(self._numbers)}")
        counted = made[grouping.kind](grouping).select("key", "value").orderBy("key")
        answers = storage(self._scratch)
        for name in sorted(row.name for row in counted.mapInArrow(write, "name string").collect()):
            with answers.reading(name) as path, pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
                for batch in batches:
                    yield from partials.answer(pa.Table.from_batches([batch]), grouping)
            answers.remove([name])

    def close(self) -> None:
        """Let the executors forget what was kept."""
        for made in self._made.values():
            made.unpersist()

    def _sum(self, asked: Grouping) -> DataFrame:
        sums = self._made[asked.files.folder] if asked.files.folder in self._made else self._sums(asked)
        return sums.where(F.col("value") >= asked.floor)

    def _histogram(self, asked: Grouping) -> DataFrame:
        sums = self._once(asked.files.folder, self._sums(asked)).where(F.col("value") >= asked.floor)
        return sums.select(F.col("value").alias("key")).groupBy("key").agg(F.count(F.lit(1)).alias("value"))

    def _distinct(self, asked: Grouping) -> DataFrame:
        columns = sorted((asked.key, asked.other))
        pairs = self._once((asked.files.folder, *columns), self._read(asked).select(*columns).distinct())
        counted = pairs.groupBy(F.col(asked.key).alias("key")).agg(F.count(F.lit(1)).alias("value"))
        return counted.where(F.col("value") >= asked.floor)

    def _first(self, asked: Grouping) -> DataFrame:
        grouped = self._read(asked).groupBy("key").agg(F.min("row").alias("value"), F.count(F.lit(1)).alias("n"))
        return grouped.where(F.col("n") > 1)

    def _sums(self, asked: Grouping) -> DataFrame:
        return self._read(asked).groupBy("key").agg(F.sum("n").alias("value"))

    def _once(self, of: object, made: DataFrame) -> DataFrame:
        if of not in self._made:
            self._made[of] = made.persist()
        return self._made[of]

    def _read(self, asked: Grouping) -> DataFrame:
        """Return the partial counts as rows; only the names of their files leave this process."""
        files, names = asked.files, partials.columns(asked)
        each = max(1, min(_FILES, len(files) // self._session.sparkContext.defaultParallelism))
        listed = pa.RecordBatch.from_arrays([files.names, files.shards], ["name", "shard"])
        slices = [listed.slice(start, each) for start in range(0, len(files), each)]  # a partition for each
        reader = functools.partial(_rows, files.folder, names)
        found = self._session.createDataFrame(pa.Table.from_batches(slices))
        return found.mapInArrow(reader, ", ".join(f"`{name}` bigint" for name in names))


def _rows(folder: str, names: tuple[str, str], files: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in files:
        urls = [f"{folder}/{name}" for name in batch["name"].to_pylist()]
        yield from partials.batches(names, zip(urls, batch["shard"].to_pylist(), strict=True))


def _written(scratch: str, answer: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write a partition of an answer and tell its name: in order of the partitions, and this attempt's alone."""
    first = next(batches, None)
    if first is None:
        return
    context: Any = TaskContext.get()
    name = f"{answer}-{context.partitionId():08d}-{context.taskAttemptId()}.arrow"
    with storage(scratch).writing(name) as path, pa.ipc.new_stream(path, _ROWS) as file:
        file.write_batch(_plain(first))
        for batch in batches:
            file.write_batch(_plain(batch))
    yield pa.RecordBatch.from_arrays([pa.array([name])], ["name"])


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch["key"], batch["value"]], schema=_ROWS)
