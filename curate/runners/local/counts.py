"""Corpus counts in one process: DuckDB, which keeps within its memory and spills the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from curate.core.counting import PLACE_BITS, Counting, Grouping
from curate.storage.paths import is_local

_BATCH = 100_000  # rows of a batch of the answer


@contextmanager
def duckdb_counting(scratch: str, memory: int) -> Iterator[Counting]:
    """Open a DuckDB session within `memory` bytes that spills to `scratch`, or to this disk where that is remote."""
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
    """Group-bys on one connection; shared steps become tables."""

    def __init__(self, connection: Any) -> None:
        self._con = connection
        self._made: dict[object, str] = {}

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key and value, sorted by key."""
        query = {"sum": self._sum, "histogram": self._histogram, "distinct": self._distinct, "first": self._first}
        return iter(self._con.sql(query[grouping.kind](grouping)).to_arrow_reader(_BATCH))

    def _sum(self, asked: Grouping) -> str:
        made = self._made.get(asked.files.folder)
        if made is not None:
            return f"select key, value from {made} where value >= {asked.floor} order by key"
        return f"{_sums(asked)} order by key"

    def _histogram(self, asked: Grouping) -> str:
        sums = self._once(asked.files.folder, _sums(asked))
        return f"select value::ubigint as key, count(*) as value from {sums} group by all order by 1"

    def _distinct(self, asked: Grouping) -> str:
        columns = ", ".join(f'"{name}"' for name in sorted((asked.key, asked.other)))
        pairs = self._once((asked.files.folder, columns), f"select distinct {columns} from {_partials(asked)}")
        return f'select "{asked.key}" as key, count(*) as value from {pairs} group by 1 having count(*) >= {asked.floor} order by 1'

    def _first(self, asked: Grouping) -> str:
        self._con.execute("create or replace table place (filename varchar, shard bigint)")
        named = pa.table({"filename": pa.array(asked.files.urls(), pa.string()), "shard": asked.files.shards})
        self._con.register("named", named)
        self._con.execute("insert into place select * from named")
        return (
            f"select key, min((shard << {PLACE_BITS}) + row) + 1 as value from {_partials(asked)} "
            "join place using (filename) group by key having count(*) > 1 order by key"
        )

    def _once(self, of: object, query: str) -> str:
        if of not in self._made:
            name = f"made_{len(self._made)}"
            self._con.execute(f"create table {name} as {query}")
            self._made[of] = name
        return self._made[of]


def _sums(asked: Grouping) -> str:
    # a double holds counts to 2^53 exactly; DuckDB sums integers in 128 bits, at twice the time
    summed = f"select key, sum(n::double)::bigint as value from {_partials(asked)} group by key"
    return f"{summed} having sum(n::double) >= {asked.floor}"


def _partials(asked: Grouping) -> str:
    listed = ", ".join("'" + url.replace("'", "''") + "'" for url in asked.files.urls())
    return f"read_parquet([{listed}], filename = {str(asked.kind == 'first').lower()})"
