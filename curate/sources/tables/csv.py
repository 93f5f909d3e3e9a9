"""csv and tsv, read in blocks that are bounded in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import ROW_GROUP, Shard
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.reader import TableRows
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry
from curate.storage.ranges import RangeFile

CSV_BLOCK = 16 << 20  # also the longest row


@dataclass
class Csv:
    """A csv or tsv file with a header; every value is read as text, an empty unquoted one as null."""

    source: Callable[[], str | RangeFile]
    tabs: bool = False
    skipped: int = 0

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._raw_names())

    def _raw_names(self) -> dict[str, str]:
        """Return the column names: pyarrow's (decoded as Latin-1) by the real ones."""
        raw = self._open([]).schema.names
        return {name.encode("latin-1").decode(errors="replace").removeprefix("\ufeff"): name for name in raw}

    def bad(self) -> int:
        """Return how many rows have another number of columns than the header."""
        return self.skipped

    def skips(self, at: int, row: int) -> bool:
        """Return False: a row is found by reading all rows before it."""
        return False

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield blocks of the file, always from its start."""
        at = 0
        raw = self._raw_names()
        for block in self._open([raw.get(name, name) for name in columns]):
            for begin in range(0, block.num_rows, ROW_GROUP):
                part = block.slice(begin, ROW_GROUP)
                yield at + begin, pa.RecordBatch.from_arrays([_from_latin(c) for c in part.columns], columns)
            at += block.num_rows

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column."""
        found = next(self.pieces([name], 0), None)
        return None if found is None else found[1].column(0)

    def _open(self, columns: list[str]) -> Any:
        from pyarrow import csv

        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=columns,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        self.skipped = 0
        parse = csv.ParseOptions(delimiter="\t" if self.tabs else ",", newlines_in_values=True, invalid_row_handler=self._skip)
        # Latin-1 accepts any bytes: pyarrow 26 cannot skip a row that has too few columns and is not UTF-8
        read = csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK, encoding="latin-1")
        return csv.open_csv(self.source(), read_options=read, parse_options=parse, convert_options=convert)

    def _skip(self, row: object) -> str:
        self.skipped += 1
        return "skip"


def _from_latin(column: pa.Array) -> pa.Array:
    """Undo the decoding as Latin-1. Invalid UTF-8 is repaired later, as in any table."""
    if pc.all(pc.string_is_ascii(column)).as_py() is not False:
        return column
    data = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(data, pa.binary()).view(pa.string())


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    from curate.sources.tables.inspect import inspect, without_images

    with InputFile(entry.url, entry.size) as file:
        used, _ = inspect(entry.url, lambda: Csv(file.source, tabs=_has_tabs(entry.url)), columns)
    return [shard_of(entry, SOURCE.kind, None, used, on_the_web=without_images(used))]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.tables.table import TableShard

    with InputFile(shard.url) as file:
        yield TableShard(shard, lambda: Csv(file.path, tabs=_has_tabs(shard.url)))


def _has_tabs(url: str) -> bool:
    return url.lower().endswith(".tsv")


SOURCE = Source("csv", (".csv", ".tsv"), _open, _list)
"""Comma- or tab-separated tables of image paths or URLs."""
