"""Tables of text, csv and tsv of any dialect, read in blocks that are bounded in memory."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import ROW_GROUP, Shard
from curate.sources.lines import SAMPLE_LINES
from curate.sources.packed import ends_with, unpacked, with_packed
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.csv_rows import LONGEST, Rows
from curate.sources.tables.dialect import HEAD, Dialect, detect, is_address
from curate.sources.tables.reader import TableRows
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

_UTF8 = "utf-8-sig"


@dataclass
class Csv:
    """A csv or tsv file; every value is read as text, an empty unquoted one as null. Without a header, columns are numbered."""

    opening: Callable[[], AbstractContextManager[BinaryIO]]
    tabs: bool = False
    wanted: Sequence[str] = ()  # columns that were asked for
    skipped: int = 0

    @cached_property
    def dialect(self) -> Dialect:
        """Return how the file is written."""
        return detect(self._head, tabs=self.tabs, wanted=self.wanted)

    @cached_property
    def _head(self) -> bytes:
        with self.opening() as file:
            return file.read(HEAD)

    def names(self) -> list[str]:
        """Return the names of the columns: a name that is there again, or empty, gets its number."""
        first = next(self._sampled(), [])
        if not self.dialect.header:
            return [str(number) for number in range(len(first))]
        names = [name.strip() for name in first]
        return [name if name and name not in names[:at] else f"{name}.{at}" for at, name in enumerate(names)]

    def guessed(self) -> dict[str, str]:
        """Return the likely columns of a file without a header: addresses are images, of the others the longest is the text."""
        rows = [] if self.dialect.header else list(self._sampled())
        columns = {str(at): [row[at] for row in rows if at < len(row)] for at in range(len(rows[0]) if rows else 0)}
        image = next((name for name, values in columns.items() if 2 * sum(map(is_address, values)) > len(values)), None)
        lengths = {name: sum(map(len, values)) for name, values in columns.items() if name != image}
        text = max(lengths, key=lambda name: lengths[name], default=None)
        return {role: name for role, name in (("image", image), ("text", text)) if name is not None}

    def _sampled(self) -> Iterator[list[str]]:
        """Yield the first rows, of the head of the file."""
        lines = next(self._blocks(iter((self._head,))), b"").decode(errors="replace")
        delimiter, escape = self.dialect.delimiter, "\\" if self.dialect.escaped else None
        csv.field_size_limit(LONGEST)
        rows = csv.reader(io.StringIO(lines, ""), delimiter=delimiter, doublequote=escape is None, escapechar=escape)
        yield from islice((row for row in rows if row), SAMPLE_LINES)

    def bad(self) -> int:
        """Return how many rows have another number of columns than the first."""
        return self.skipped

    def skips(self, at: int, row: int) -> bool:
        """Return False: a row is found by reading all rows before it."""
        return False

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield blocks of the file, always from its start."""
        at, self.skipped, names, header = 0, 0, self.names(), self.dialect.header
        with self.opening() as file:
            for block in self._blocks(iter(lambda: file.read(LONGEST), b"")):
                found = self._parsed(block, names, columns, header=header)
                header = False
                for part in found.combine_chunks().to_batches(ROW_GROUP):
                    yield at, pa.RecordBatch.from_arrays([_from_latin(part[name]) for name in columns], columns)
                    at += part.num_rows

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column."""
        at, rows = self.names().index(name), self._sampled()
        if self.dialect.header:
            next(rows, None)
        return pa.array([row[at] for row in rows if at < len(row)], pa.string())

    def _blocks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield whole rows, in UTF-8."""
        rows = Rows(self.dialect.delimiter.encode(), self.dialect.escaped, self.dialect.quoted)
        return rows.blocks(_in_utf8(chunks, self.dialect))

    def _parsed(self, block: bytes, names: list[str], columns: list[str], *, header: bool) -> pa.Table:
        from pyarrow import csv as arrow

        convert = arrow.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        dialect = self.dialect
        parse = arrow.ParseOptions(
            delimiter=dialect.delimiter,
            double_quote=not dialect.escaped,
            escape_char="\\" if dialect.escaped else False,
            newlines_in_values=True,
            invalid_row_handler=self._skip,
        )
        # Latin-1 accepts any bytes: pyarrow 26 cannot skip a row that has too few columns and is not UTF-8
        read = arrow.ReadOptions(use_threads=False, block_size=len(block) + 1, encoding="latin-1", column_names=names)
        read.skip_rows_after_names = int(header)
        return arrow.read_csv(pa.BufferReader(block), read_options=read, parse_options=parse, convert_options=convert)

    def _skip(self, row: object) -> str:
        self.skipped += 1
        return "skip"


def _in_utf8(chunks: Iterator[bytes], dialect: Dialect) -> Iterator[bytes]:
    """Yield the bytes of a file in UTF-8, as they are where they are that, with a newline at the end of each line."""
    decoder, first = codecs.getincrementaldecoder(dialect.encoding)(errors="replace"), True
    for data in chunks:
        if dialect.encoding == _UTF8:
            data = data.removeprefix(codecs.BOM_UTF8) if first else data
        else:
            data = decoder.decode(data).encode(errors="replace")
        yield data.replace(b"\r", b"\n") if dialect.cr else data
        first = False


def _from_latin(column: pa.Array) -> pa.Array:
    """Undo the decoding as Latin-1. Invalid UTF-8 is repaired later, as in any table."""
    if pc.all(pc.string_is_ascii(column)).as_py() is not False:
        return column
    data = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(data, pa.binary()).view(pa.string())


def table_of(url: str, opening: Callable[[], BinaryIO], wanted: Iterable[str]) -> Csv:
    """Return the reader of a file: its name says how it is packed, and what separates its values if nothing else does."""
    return Csv(lambda: unpacked(url, opening), ends_with(url, ".tsv"), tuple(wanted))


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    from curate.sources.tables.inspect import inspect, without_images

    with InputFile(entry.url, entry.size) as file:
        table = table_of(entry.url, file.stream, columns.values())
        used, _ = inspect(entry.url, lambda: table, columns)
    return [shard_of(entry, SOURCE.kind, None, used, on_the_web=without_images(used))]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.tables.table import TableShard

    with InputFile(shard.url) as file:
        file.path()
        yield TableShard(shard, lambda: table_of(shard.url, file.stream, [name for _, name in shard.columns]))


SOURCE = Source("csv", with_packed(".csv", ".tsv"), _open, _list)
"""Tables of image paths or URLs, with values between commas, tabs, semicolons or pipes."""
