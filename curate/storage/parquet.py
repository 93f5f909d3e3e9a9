"""The one way parquet is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP


def open_writer(path: Path, schema: pa.Schema, compression: Literal["zstd", "lz4"] = "zstd") -> pq.ParquetWriter:
    """Begin a parquet file without dictionaries and times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    level = 1 if compression == "zstd" else None
    # zstd alone makes smaller files than behind a dictionary, and they are read three times as fast
    options = {"use_dictionary": False, "store_schema": False, "compression_level": level}
    return pq.ParquetWriter(path, schema, compression=compression, **options)


class ParquetWriter:
    """The one way parquet is written: fixed row groups, no dictionaries, no times. Rows arrive in batches of any size.

    Bytes depend only on the rows: batches are cut and joined to groups of ROW_GROUP before they are written.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: Literal["zstd", "lz4"] = "zstd") -> None:
        self.schema = schema
        self._writer = open_writer(path, schema, compression)
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows; columns are taken by name."""
        table = table.select(self.schema.names)
        if not table.num_rows:  # else no rows at all would be other bytes than no tables
            return
        self._waiting.append(table if table.schema.equals(self.schema) else table.cast(self.schema))
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            joined = pa.concat_tables(self._waiting)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                self._writer.write_table(joined.slice(start, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            rest = joined.slice(whole)
            self._waiting, self._rows = ([rest] if rest.num_rows else []), rest.num_rows

    def close(self) -> None:
        """Write the last, shorter group and the footer."""
        if self._rows or not self._waiting:
            rest = pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()
            self._writer.write_table(rest.combine_chunks(), row_group_size=ROW_GROUP)
        self._writer.close()
