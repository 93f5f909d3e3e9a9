"""Parquet files, local or remote, as one SQL view in DuckDB, within bounded memory.

Results do not depend on the number of threads: no approximate aggregates, no sums of floats, no ties.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    import duckdb

    with tempfile.TemporaryDirectory(prefix="curate-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET temp_directory = $1", [spill])
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET autoinstall_known_extensions = false")
        if files and not is_local(files[0]):
            _open_remote(connection, files[0])
        try:
            yield View(connection, _create(connection, files, columns))
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


def _create(connection: duckdb.DuckDBPyConnection, files: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Create the view `data` and return the types of the columns that the files have."""
    types: dict[str, str] = {}
    source, start = "(SELECT 1)", []
    if files:
        relation = connection.read_parquet(list(files))
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        relation.create_view("files")
        source, start = "files", ["*"]
    missing = [f"NULL::{sql} AS {quoted(name)}" for name, sql in columns.items() if name not in types]
    where = "" if files else " WHERE false"
    connection.execute(f"CREATE VIEW data AS SELECT {', '.join(start + missing)} FROM {source}{where}")
    return types
