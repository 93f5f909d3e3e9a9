"""Partial counts for engines without uint64: keys are int64 with the highest bit flipped, which keeps their order.

Ray Data's blocks lose uint64 above 2^63, and Spark has no such type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.counting import PLACE_BITS, Grouping
from curate.storage.paths import opened

ANSWER = pa.schema([("key", pa.uint64()), ("value", pa.int64())])

_ROWS = 1 << 20  # of a batch
_TOP = np.uint64(1 << 63)


def columns(grouping: Grouping) -> tuple[str, str]:
    """Return the two columns that a group-by reads."""
    return grouping.key, grouping.other


def batches(names: tuple[str, str], files: Iterable[tuple[str, int]]) -> Iterator[pa.RecordBatch]:
    """Yield two int64 columns of files given as (url, shard index); a column `row` becomes the place in the corpus."""
    for url, shard in files:
        for batch in pq.ParquetFile(opened(url), pre_buffer=True).iter_batches(_ROWS, columns=list(names)):
            yield pa.RecordBatch.from_arrays([_signed(batch[name], shard, name) for name in names], list(names))


def answer(table: pa.Table, grouping: Grouping) -> Iterator[pa.RecordBatch]:
    """Yield an engine's rows (key, value: int64) in the form that Counting promises; keys of a histogram are sums, not hashes."""
    keys = table["key"].to_numpy()
    found = keys.astype(np.uint64) if grouping.kind == "histogram" else keys.view(np.uint64) ^ _TOP
    yield from pa.table({"key": pa.array(found, pa.uint64()), "value": table["value"].cast(pa.int64())}, ANSWER).to_batches()


def _signed(column: pa.Array, shard: int, name: str) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    if name == "row":
        return pa.array((np.int64(shard) << PLACE_BITS) + values + 1)
    return pa.array((values ^ _TOP).view(np.int64) if values.dtype == np.uint64 else values)
