"""Corpus counts in this process, on DuckDB, which keeps within a memory limit and spills the rest to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from curate.core.counting import PLACE_BITS, Counting, Grouping
from curate.storage.paths import is_local

_BATCH = 100_000  # rows of a batch of the result


@contextmanager
def duckdb_counting(scratch: str, memory: int) -> Iterator[Counting]:
    """Open a DuckDB session that uses at most `memory` bytes and spills to `scratch`, or to a local disk where that is remote."""
    import duckdb

    with TemporaryDirectory(prefix="curate-") as here, duckdb.connect() as connection:  # a database file would be written in full
        connection.execute(f"set memory_limit='{memory // 1_000_000}MB'")
        if is_local(scratch):
            Path(scratch).mkdir(parents=True, exist_ok=True)
        connection.execute("set temp_directory=?", [scratch if is_local(scratch) else here])
        connection.execute("set preserve_insertion_order=false")
        if not is_local(scratch):
            from curate.storage.duckdb_files import Ranges

            connection.register_filesystem(Ranges(scratch))
        yield _Session(connection)


class _Session:
    """Group-bys on one connection; results that several of them use are kept as tables."""

    def __init__(self, connection: Any) -> None:
        self._con = connection
        self._shared: dict[object, str] = {}

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        query = {"sum": self._sum, "histogram": self._histogram, "distinct": self._distinct, "first": self._first}
        return iter(self._con.sql(query[grouping.kind](grouping)).to_arrow_reader(_BATCH))

    def _sum(self, grouping: Grouping) -> str:
        sums = self._shared.get(grouping.files.folder)
        if sums is not None:
            return f"select key, value from {sums} where value >= {grouping.floor} order by key"
        return f"{_sums(grouping)} order by key"

    def _histogram(self, grouping: Grouping) -> str:
        sums = self._once(grouping.files.folder, _sums(grouping))
        return f"select value::ubigint as key, count(*) as value from {sums} group by all order by 1"

    def _distinct(self, grouping: Grouping) -> str:
        columns = ", ".join(f'"{name}"' for name in sorted((grouping.key, grouping.other)))
        pairs = self._once((grouping.files.folder, columns), f"select distinct {columns} from {_partials(grouping)}")
        counted = f'select "{grouping.key}" as key, count(*) as value from {pairs} group by 1'
        return f"{counted} having count(*) >= {grouping.floor} order by 1"

    def _first(self, grouping: Grouping) -> str:
        self._con.execute("create or replace table place (filename varchar, shard bigint)")
        named = pa.table({"filename": pa.array(grouping.files.urls(), pa.string()), "shard": grouping.files.shards})
        self._con.register("named", named)
        self._con.execute("insert into place select * from named")
        return (
            f"select key, min((shard << {PLACE_BITS}) + row) + 1 as value from {_partials(grouping)} "
            "join place using (filename) group by key having count(*) > 1 order by key"
        )

    def _once(self, key: object, query: str) -> str:
        if key not in self._shared:
            name = f"shared_{len(self._shared)}"
            self._con.execute(f"create table {name} as {query}")
            self._shared[key] = name
        return self._shared[key]


def _sums(grouping: Grouping) -> str:
    # a double holds counts to 2^53 exactly; DuckDB sums integers in 128 bits, at twice the time
    summed = f"select key, sum(n::double)::bigint as value from {_partials(grouping)} group by key"
    return f"{summed} having sum(n::double) >= {grouping.floor}"


def _partials(grouping: Grouping) -> str:
    listed = ", ".join("'" + url.replace("'", "''") + "'" for url in grouping.files.urls())
    return f"read_parquet([{listed}], filename = {str(grouping.kind == 'first').lower()})"
