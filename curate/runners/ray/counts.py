"""Corpus counts on Ray Data's own shuffle.

Merging 2 million rows takes 5 s and sorting the result another 5 s; a group-by of a few rows takes 4 s.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.counting import Counting, Grouping
from curate.runners import partials
from curate.storage.backend import storage

_PARTITION = 128 << 20  # bytes of partial counts in a partition of a shuffle
_ANSWER_FILE = "answer.arrow"
_FILES = 16  # that one task reads, where there are many


@contextmanager
def ray_counting(scratch: str) -> Iterator[Counting]:
    """Open a session on the connected cluster; through ray:// it runs in an actor, and results come back through `scratch`."""
    import ray

    if not ray.util.client.ray.is_connected():
        yield _Session()
        return
    session = ray.remote(_Session).options(num_cpus=0).remote()
    try:
        yield _Remote(session, scratch)
    finally:
        ray.kill(session)


class _Remote:
    """A session in an actor: Ray Data does not run in a process that is only a client of a cluster."""

    def __init__(self, session: Any, scratch: str) -> None:
        self._session, self._scratch = session, scratch

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        import ray

        ray.get(self._session.write.remote(grouping, self._scratch))
        with (
            storage(self._scratch).reading(_ANSWER_FILE) as path,
            pa.memory_map(str(path)) as file,
            pa.ipc.open_stream(file) as batches,
        ):
            yield from batches


class _Session:
    """Group-bys; results that several of them use stay in the object store."""

    def __init__(self) -> None:
        from ray.data import DataContext
        from ray.data.context import ShuffleStrategy

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs every step of every plan
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True  # of the sorted result
        context.shuffle_strategy = ShuffleStrategy.SHUFFLE_V2  # aggregates in Arrow; the others go row by row in Python
        self._shared: dict[object, Any] = {}

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        queries = {"sum": self._sum, "histogram": self._histogram, "distinct": self._distinct, "first": self._first}
        for table in queries[grouping.kind](grouping).iter_batches(batch_format="pyarrow", batch_size=None):
            yield from partials.answer(table, grouping)

    def write(self, grouping: Grouping, scratch: str) -> None:
        """Write what `count` yields into an Arrow stream in `scratch`."""
        with storage(scratch).writing(_ANSWER_FILE) as path, pa.ipc.new_stream(path, partials.ANSWER) as file:
            for batch in self.count(grouping):
                file.write_batch(batch)

    def _sum(self, grouping: Grouping) -> Any:
        return _sorted(
            self._shared[grouping.files.folder] if grouping.files.folder in self._shared else _sums(grouping), grouping.floor
        )

    def _histogram(self, grouping: Grouping) -> Any:
        from ray.data.aggregate import Count

        sums = self._once(grouping.files.folder, _sums(grouping))
        counted = sums.groupby("value", num_partitions=1).aggregate(Count(alias_name="n"))
        return _sorted(counted.rename_columns({"value": "key", "n": "value"}), 1)

    def _distinct(self, grouping: Grouping) -> Any:
        from ray.data.aggregate import Count

        columns = sorted((grouping.key, grouping.other))
        parts = _partitions(grouping)
        distinct = _read(grouping).groupby(columns, parts).aggregate(Count(alias_name="n"))
        pairs = self._once((grouping.files.folder, *columns), distinct)
        counted = pairs.groupby(grouping.key, parts).aggregate(Count(alias_name="value"))
        return _sorted(counted.rename_columns({grouping.key: "key"}), grouping.floor)

    def _first(self, grouping: Grouping) -> Any:
        from ray.data.aggregate import Count, Min

        grouped = (
            _read(grouping).groupby("key", _partitions(grouping)).aggregate(Min("row", alias_name="value"), Count(alias_name="n"))
        )
        return _sorted(grouped.map_batches(_several, batch_format="pyarrow", batch_size=None), 1)

    def _once(self, key: object, dataset: Any) -> Any:
        if key not in self._shared:
            self._shared[key] = dataset.materialize()
        return self._shared[key]


def _sums(grouping: Grouping) -> Any:
    from ray.data.aggregate import Sum

    return _read(grouping).groupby("key", _partitions(grouping)).aggregate(Sum("n", alias_name="value"))


def _sorted(counted: Any, floor: int) -> Any:
    kept = functools.partial(_at_least, floor)
    return counted.map_batches(kept, batch_format="pyarrow", batch_size=None).sort("key")


def _at_least(floor: int, table: pa.Table) -> pa.Table:
    return table.filter(pc.greater_equal(table["value"], floor)).select(["key", "value"])


def _several(table: pa.Table) -> pa.Table:
    return table.filter(pc.greater(table["n"], 1)).select(["key", "value"])


def _partitions(grouping: Grouping) -> int:
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), -(-grouping.files.bytes() // _PARTITION))


def _read(grouping: Grouping) -> Any:
    """Return the partial counts as a dataset; this process sends only their URLs."""
    import ray
    import ray.data

    listed = pa.table({"url": pa.array(grouping.files.urls(), pa.string()), "shard": grouping.files.shards})
    blocks = min(len(listed), max(int(ray.cluster_resources().get("CPU", 1)), -(-len(listed) // _FILES)))
    files = ray.data.from_arrow(listed).repartition(blocks)
    reader = functools.partial(_tables, partials.columns(grouping))
    return files.map_batches(reader, batch_format="pyarrow", batch_size=_FILES)


def _tables(names: tuple[str, str], files: pa.Table) -> Iterator[pa.Table]:
    for batch in partials.batches(names, zip(files["url"].to_pylist(), files["shard"].to_pylist(), strict=True)):
        yield pa.Table.from_batches([batch])
