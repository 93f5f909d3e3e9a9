"""Tables of text, csv and tsv of any dialect, read in blocks that are bounded in memory."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import ROW_GROUP, Shard
from curate.sources.lines import SAMPLE_LINES
from curate.sources.packed import ends_with, is_packed, unpacked, with_packed
from curate.sources.source import Columns, OpenShard, Source, shard_of, with_form
from curate.sources.tables.csv_rows import LONGEST, Block, Rows
from curate.sources.tables.cutting import Parts, chunks, cut, resized
from curate.sources.tables.detect import HEAD, detect, is_address
from curate.sources.tables.dialect import UTF8, Dialect, dialect, given
from curate.sources.tables.reader import TableRows
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry


@dataclass
class Csv:
    """A csv or tsv file, or a part of one, from the begin of a row to that of another (bytes of the file as it is stored).

    Every value is read as text, an empty unquoted one as null. Without a header, columns are numbered.
    """

    opening: Callable[[], AbstractContextManager[BinaryIO]]
    head: bytes  # of the file, HEAD bytes
    dialect: Dialect
    part: tuple[int, int] | None = None
    skipped: int = 0

    def names(self) -> list[str]:
        """Return the names of the columns: a name that is there again, or empty, gets its number."""
        first = next(self._sampled(), [])
        if not self.dialect.header:
            return [str(number) for number in range(len(first))]
        names = [name.strip() for name in first]
        return [name if name and name not in names[:at] else f"{name}.{at}" for at, name in enumerate(names)]

    def scalars(self) -> list[str]:
        """Return the names of the columns: all of them."""
        return self.names()

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
        block = next(self._rows(0).blocks(_in_utf8(iter((self.head,)), self.dialect)), None)
        lines = "" if block is None else block.data.decode(errors="replace")
        delimiter, escape = self.dialect.delimiter, "\\" if self.dialect.escaped else None
        csv.field_size_limit(LONGEST)
        rows = csv.reader(io.StringIO(lines, ""), delimiter=delimiter, doublequote=escape is None, escapechar=escape)
        yield from islice((row for row in rows if row), SAMPLE_LINES)

    def parts(self, file: InputFile, size: int) -> Parts:
        """Cut the file into parts of about PART bytes, where rows begin; [None] where it is small, or that cannot be told."""
        return cut(file, size, self._rows(len(self.names())).start) if self.dialect.cuttable else [None]

    def bad(self) -> int:
        """Return how many rows have another number of columns than the first."""
        return self.skipped

    def several(self, name: str) -> bool:
        """Return False: a value is one image."""
        return False

    def skips(self, at: int, row: int) -> bool:
        """Return False: a row is found by reading all rows before it."""
        return False

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield blocks of the file, always from its start. Raises ArrowInvalid where rows are not as many as lines make."""
        at, self.skipped, names = 0, 0, self.names()
        begin, end = self.part or (0, None)
        rows, header = self._rows(len(names)), self.dialect.header and not begin
        with self.opening() as file:
            for block in rows.blocks(_in_utf8(chunks(file, begin, end), self.dialect, begin)):
                body, header = rows.without_first(block) if header else block, False
                read, found = self._parsed(body.data, names, columns)
                if read != body.rows:
                    place = self._place(body, rows, names)
                    raise pa.ArrowInvalid(f"{place}: {read} rows were read where there are {body.rows}")
                for part in found.combine_chunks().to_batches(ROW_GROUP):
                    yield at, pa.RecordBatch.from_arrays([_from_latin(part[name]) for name in columns], columns)
                    at += part.num_rows

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column."""
        at, rows = self.names().index(name), self._sampled()
        if self.dialect.header:
            next(rows, None)
        return pa.array([row[at] for row in rows if at < len(row)], pa.string())

    def _rows(self, width: int) -> Rows:
        return Rows(self.dialect.delimiter.encode(), self.dialect.escaped, self.dialect.quoted, width)

    def _place(self, block: Block, rows: Rows, names: list[str]) -> str:
        """Return the line from which on a block is not read as it is written."""
        ends = [0, *rows.ends(block.data)]
        low, high = 0, len(ends) - 1  # the rows before ends[low] are read, those before ends[high] are not
        while high - low > 1:
            middle = (low + high) // 2
            whole = self._parsed(block.data[: ends[middle]], names, names[:1])[0] == middle
            low, high = (middle, high) if whole else (low, middle)
        line = block.line + block.data.count(b"\n", 0, ends[low]) + 1
        return f"line {line}" + (f" after byte {self.part[0]}" if self.part and self.part[0] else "")

    def _parsed(self, data: bytes, names: list[str], columns: list[str]) -> tuple[int, pa.Table]:
        """Return how many rows some clean csv has, and those that are as wide as the table."""
        from pyarrow import csv as arrow

        if not data.strip(b"\r\n"):
            return 0, pa.table({name: pa.array([], pa.string()) for name in columns})
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
        read = arrow.ReadOptions(use_threads=False, block_size=2 * len(data) + 1, encoding="latin-1", column_names=names)
        before = self.skipped
        found = arrow.read_csv(pa.BufferReader(data), read_options=read, parse_options=parse, convert_options=convert)
        return found.num_rows + self.skipped - before, found

    def _skip(self, row: object) -> str:
        self.skipped += 1
        return "skip"


def _in_utf8(chunks: Iterator[bytes], dialect: Dialect, begin: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a file in UTF-8, as they are where they are that, with a newline at the end of each line."""
    decoder, first = codecs.getincrementaldecoder(dialect.encoding)(errors="replace"), begin == 0
    for data in chunks:
        if dialect.encoding != UTF8:
            data = decoder.decode(data).encode(errors="replace")
        data = data.removeprefix(codecs.BOM_UTF8) if first else data
        yield data.replace(b"\r", b"\n") if dialect.cr else data
        first = False


def _from_latin(column: pa.Array) -> pa.Array:
    """Undo the decoding as Latin-1. Invalid UTF-8 is repaired later, as in any table."""
    if pc.all(pc.string_is_ascii(column)).as_py() is not False:
        return column
    data = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(data, pa.binary()).view(pa.string())


def _opened(url: str, file: InputFile, written: Callable[[bytes], Dialect], part: tuple[int, int] | None = None) -> Csv:
    """Return the reader of a file; `written` is given its head."""

    def opening() -> AbstractContextManager[BinaryIO]:
        return unpacked(url, file.stream)

    with opening() as opened:
        head = opened.read(HEAD)
    return Csv(opening, head, written(head), part)


def _detected(url: str, columns: Mapping[str, str]) -> Callable[[bytes], Dialect]:
    """Return what judges the head of a file, whose name says what separates its values if nothing else does."""
    told = given(columns.table) if isinstance(columns, Columns) else {}
    return partial(detect, tabs=ends_with(url, ".tsv"), wanted=tuple(columns.values()), told=told)


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    from curate.sources.tables.inspect import inspect, without_images

    with InputFile(entry.url, entry.size) as file:
        used, table = inspect(entry.url, lambda: _opened(entry.url, file, _detected(entry.url, columns)), columns)
        form = "" if table is None else str(table.dialect)
        parts: Parts = [None] if table is None or is_packed(entry.url) else table.parts(file, entry.size)
    shards = (shard_of(entry, SOURCE.kind, part, used, on_the_web=without_images(used)) for part in parts)
    return [with_form(resized(shard), form) for shard in shards]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.tables.table import TableShard

    def written(head: bytes) -> Dialect:
        return dialect(given(shard.form)) if shard.form else _detected(shard.url, dict(shard.columns))(head)

    with InputFile(shard.url) as file:
        if shard.part is None:
            file.path()
        yield TableShard(shard, lambda: _opened(shard.url, file, written, shard.part))


SOURCE = Source("csv", with_packed(".csv", ".tsv"), _open, _list, table=True)
"""Tables of image paths or URLs, with values between commas, tabs, semicolons or pipes."""
