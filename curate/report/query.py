"""Parquet files, local or remote, as one SQL view in DuckDB, within bounded memory.

Results do not depend on the number of threads: no approximate aggregates, no sums of floats, no ties.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from curate.core.errors import OutputError
from curate.storage.backend import Storage
from curate.storage.paths import is_local

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "1GB"
_READERS = 16  # threads that read remote files, mostly waiting
SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
WHOLE = (*SIGNED, *("U" + name for name in SIGNED))
"""DuckDB's integer types."""

FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
"""DuckDB's other numeric types."""


def parquet_files(out: Storage, folder: str) -> list[str]:
    """Return the sorted paths or URLs of the parquet files in a folder of an output. Raises OSError."""
    names = (found.name for found in out.listing(folder))
    return sorted(out.url(f"{folder}/{name}") for name in names if name.endswith(".parquet"))


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


class View:
    """Parquet files as the SQL view `data`; `types` maps their columns to DuckDB types."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, types: dict[str, str]) -> None:
        """Use a connection that has the view `data`."""
        self._connection = connection
        self.types = types

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all rows."""
        found: list[tuple[Any, ...]] = self._connection.execute(sql, list(parameters)).fetchall()
        return found

    def aggregates(self, asked: Sequence[str]) -> tuple[Any, ...]:
        """Return the values of some aggregates over all rows, in one scan."""
        return self.rows(f"SELECT {', '.join(asked)} FROM data")[0] if asked else ()

    def hold(self, without: Sequence[str]) -> None:
        """Read the columns once into a table, which spills to disk: opening many small files takes longer than their rows.

        Columns in `without` are not read, and queries may not use them any more.
        """
        left_out = [quoted(name) for name in without if name in self.types]
        columns = f"* EXCLUDE ({', '.join(left_out)})" if left_out else "*"
        self._connection.execute(f"CREATE TEMP TABLE held AS SELECT {columns} FROM data")
        self._connection.execute("CREATE OR REPLACE VIEW data AS SELECT * FROM held")

    def is_whole(self, name: str) -> bool:
        """Return whether a column exists and holds integers."""
        return self.types.get(name, "") in WHOLE

    def is_number(self, name: str) -> bool:
        """Return whether a column exists and holds numbers."""
        return self.is_whole(name) or self.types.get(name, "").startswith(FRACTIONS)


@contextmanager
def opened(files: Sequence[str], columns: Mapping[str, str]) -> Iterator[View]:
    """Open parquet files of one schema for SQL: paths, local globs, or URLs of one store; an empty list has no rows.

    `columns` maps names to SQL types that queries may use: columns that the files lack are null. Raises OutputError if a
    file cannot be read.
    """
    with connected(files[:1]) as connection:
        yield View(connection, create_view(connection, "data", files, columns))


@contextmanager
def connected(stores: Iterable[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB with bounded memory and a folder to spill to; `stores` are paths or URLs, one of every store to be read.

    Raises OutputError if a file cannot be read inside the block.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="curate-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET temp_directory = $1", [spill])
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET autoinstall_known_extensions = false")
        remote = {url.partition("://")[0]: url for url in stores if not is_local(url)}
        for url in remote.values():
            _open_remote(connection, url)
        try:
            yield connection
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise OutputError(f"cannot read the parquet files: {str(error).splitlines()[0]}") from error
        except duckdb.Error as error:
            if type(error) is not duckdb.Error:  # a bug in a query
                raise
            # raised by the filesystem of a URL; DuckDB passes on the text of the traceback
            raise OutputError(f"cannot read the parquet files: {str(error).splitlines()[-1]}") from error


def _open_remote(connection: duckdb.DuckDBPyConnection, url: str) -> None:
    from curate.storage.duckdb_files import Ranges

    connection.register_filesystem(Ranges(url))
    connection.execute(f"SET threads = {_READERS}")
    connection.execute("SET cache_local_files = true")  # DuckDB takes memory:// and others for local


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """Create a view of parquet files as `opened` does, and return the types of the columns that the files have."""
    types: dict[str, str] = {}
    source, start = "(SELECT 1)", []
    if files:
        relation = connection.read_parquet(list(files))
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        relation.create_view(f"{name}_files")
        source, start = f"{name}_files", ["*"]
    missing = [f"NULL::{sql} AS {quoted(column)}" for column, sql in columns.items() if column not in types]
    where = "" if files else " WHERE false"
    connection.execute(f"CREATE VIEW {name} AS SELECT {', '.join(start + missing)} FROM {source}{where}")
    return types
