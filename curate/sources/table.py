"""Tables: parquet (bytes, HF structs, local paths), csv and tsv, and JSON lines. Columnar where no file must be opened.

A parquet file is read by row groups, so it can be cut into shards; the others are one shard each.
"""

from __future__ import annotations

import base64
import binascii
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, BinaryIO, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.contracts import IMAGE_ROWS, RECORD_SCHEMA, ROW_GROUP, Batch, Shard, ShardBreak
from curate.errors import InputError
from curate.sources.columns import Code, clean_text, is_base64, is_binary, is_string, joined, on_the_web, resolve
from curate.sources.files import Folder
from curate.sources.records import BATCH_BYTES, MAX_IMAGE, UNSAFE_KEY, Record, as_text, batches, join

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; the last for names and messages with bytes of the file in them."""

SHARD_ROWS = 250_000
SHARD_BYTES = 2 << 30
CSV_BLOCK = 16 << 20  # also the longest row
MAX_LINE = 64 << 20
_UNSAFE = re.compile(UNSAFE_KEY)
SAMPLE_LINES = 100

Chunk = tuple[int, pa.RecordBatch]
"""The number of its first row, and rows as the file has them."""


Parts = list[tuple[int, int] | None]
"""Pieces of a file by row group; [None] = it stays whole."""


class Reader(Protocol):
    """Reads one file format."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    seeks: ClassVar[bool]  # whether it can begin elsewhere than at the start

    def chunks(self, columns: list[str], first: int) -> Iterator[Chunk]:
        """Yield rows with `columns` to the end; chunks before the one that holds row `first` may be left out."""

    def bad(self) -> int:
        """Return how many rows had to be skipped; known after `chunks` has ended."""


@dataclass
class Parquet:
    """A parquet file, or consecutive row groups of it."""

    path: str
    part: tuple[int, int] | None = None
    seeks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        import pyarrow.parquet as pq

        # a page at a time: a row group of images may be larger than memory
        self.file = pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20)

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.file.schema_arrow.names)

    def bad(self) -> int:
        """Return 0: parquet has no bad rows."""
        return 0

    def chunks(self, columns: list[str], first: int) -> Iterator[Chunk]:
        """Yield batches of row groups, sized by the metadata so that they are about BATCH_BYTES; from the group of `first`."""
        start = 0
        for group in range(*(self.part or (0, self.file.metadata.num_row_groups))):
            rows = self.file.metadata.row_group(group).num_rows
            if first < start + rows:
                at = start
                size = self._batch_rows(group)
                for batch in self.file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                    yield at, batch
                    at += batch.num_rows
            start += rows

    def _batch_rows(self, group: int) -> int:
        # only the row group's own size is asked for: pyarrow 26 aborts the process on damaged metadata of a column
        about = self.file.metadata.row_group(group)
        fits = BATCH_BYTES // max(about.total_byte_size // max(about.num_rows, 1), 1)
        # a dictionary hides how large its repeated values are once decoded
        return int(min(ROW_GROUP, max(fits, 1 if fits < IMAGE_ROWS else IMAGE_ROWS)))


@dataclass
class Csv:
    """A csv or tsv file with a header; every value is read as text, an empty unquoted one as null."""

    path: str
    tabs: bool = False
    seeks: ClassVar[bool] = False
    skipped: int = 0

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._raw_names())

    def _raw_names(self) -> dict[str, str]:
        """Return the names as pyarrow knows them, by what they spell."""
        raw = self._open([]).schema.names
        return {name.encode("latin-1").decode(errors="replace").removeprefix("\ufeff"): name for name in raw}

    def bad(self) -> int:
        """Return how many rows have another number of columns than the header."""
        return self.skipped

    def chunks(self, columns: list[str], first: int) -> Iterator[Chunk]:
        """Yield blocks of the file, always from its start."""
        at = 0
        raw = self._raw_names()
        for block in self._open([raw.get(name, name) for name in columns]):
            for begin in range(0, block.num_rows, ROW_GROUP):
                part = block.slice(begin, ROW_GROUP)
                yield at + begin, pa.RecordBatch.from_arrays([_from_latin(c) for c in part.columns], columns)
            at += block.num_rows

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
        return csv.open_csv(self.path, read_options=read, parse_options=parse, convert_options=convert)

    def _skip(self, row: object) -> str:
        self.skipped += 1
        return "skip"


def _from_latin(column: pa.Array) -> pa.Array:
    """Undo the decoding of a csv file as Latin-1; what is not UTF-8 then is repaired later, as in any table."""
    if pc.all(pc.string_is_ascii(column)).as_py() is not False:
        return column
    data = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(data, pa.binary()).view(pa.string())


@dataclass
class TableShard:
    """A table on the local disk: what its `reader` yields, as records. `folder` is where its image paths begin."""

    shard: Shard
    reader: Reader
    folder: Folder

    def __post_init__(self) -> None:
        self._ahead: Iterator[Chunk] | None = None
        self._held: tuple[int, pa.RecordBatch | None] = (0, None)
        self.columns = dict(self.shard.columns)
        if "text" not in self.columns or not {"image", "url"} & self.columns.keys():
            try:
                self.columns = resolve(self.shard.url, self.reader.names(), self.columns)
            except InputError as error:  # the listing could not read the table, so the user was not told then
                raise ShardBreak(str(error)) from None

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last good row when the table is damaged."""
        limit = self.shard.limit
        end = 0
        for start, chunk in self._chunks(sorted(set(self.columns.values())), 0):
            if limit is not None and start >= limit:
                return
            chunk = chunk if limit is None else chunk.slice(0, limit - start)
            yield from self._records(start, chunk)
            end = start + chunk.num_rows
        bad = self.reader.bad() if limit is None else min(self.reader.bad(), limit - end)
        yield from batches((Record(f"{self._stem()}/bad/{i}", None, None, "bad_row", None) for i in range(bad)), end)

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row, ascending), reading only the image column, and only where needed."""
        name = self.columns.get("image")
        for row in rows.column("row").to_pylist():
            start, chunk = (0, None) if name is None else self._chunk_of(name, row)
            yield None if name is None or chunk is None else _load_cell(chunk.column(0), row - start, name, self.folder)[0]

    def _chunk_of(self, name: str, row: int) -> tuple[int, pa.RecordBatch | None]:
        """Return the part of the image column that holds `row`, and its first row; asked in ascending order, it is read once."""
        start, chunk = self._held
        end = start + (chunk.num_rows if chunk is not None else 0)
        if self._ahead is None or row < start or (self.reader.seeks and row >= end + ROW_GROUP):
            self._ahead, end = self._chunks([name], row), 0
        while row >= end or chunk is None:
            found = next(self._ahead, None)
            if found is None:
                self._ahead, self._held = None, (0, None)
                return self._held
            self._held = start, chunk = found
            end = start + chunk.num_rows
        return self._held

    def _chunks(self, columns: list[str], first: int) -> Iterator[Chunk]:
        try:
            yield from self.reader.chunks(columns, first)
        except DAMAGE as error:
            raise broken(self.shard.url, error) from None

    def _stem(self) -> str:
        stem = posixpath.splitext(posixpath.basename(self.shard.url))[0]
        return stem if self.shard.part is None else f"{stem}/{self.shard.part[0]}"

    def _records(self, start: int, chunk: pa.RecordBatch) -> Iterator[Batch]:
        fields, codes = self._fields(start, chunk)
        given = fields.pop()
        name = self.columns.get("image")
        if name is None:
            error = joined([("missing_url", pc.is_null(fields[1])), *codes], len(chunk))
            none = pa.nulls(len(chunk), pa.binary()), pa.nulls(len(chunk), pa.int64())
            yield pa.RecordBatch.from_arrays([_numbers(start, len(chunk)), *fields, error, *none, given], schema=RECORD_SCHEMA)
            return
        column = chunk.column(chunk.schema.get_field_index(name))
        image = _bytes_of(column, name)
        if image is None:
            yield from batches(self._row_by_row(fields, codes, column), start)
            return
        missing = pc.is_null(image)
        if (pc.max(pc.binary_length(image)).as_py() or 0) > MAX_IMAGE:
            large = pc.fill_null(pc.greater(pc.binary_length(image), MAX_IMAGE), False)  # noqa: FBT003 - Arrow's signature
            image = pc.if_else(large, pa.scalar(None, image.type), image)
            codes = [("image_too_large", large), *codes]
        error = joined([("missing_image", missing), *codes], len(image))
        rows = _numbers(start, len(image))
        for begin, length in _cuts(image, fields[2]):
            part = [array.slice(begin, length) for array in (rows, *fields, error)]
            data = image.slice(begin, length).cast(pa.binary())
            rest = pa.nulls(length, pa.int64()), given.slice(begin, length)
            yield pa.RecordBatch.from_arrays([*part, data, *rest], schema=RECORD_SCHEMA)

    def _fields(self, start: int, chunk: pa.RecordBatch) -> tuple[list[pa.Array], list[Code]]:
        """Return the arrays key, url, text and given_sha256, and what is wrong with them."""
        rows = chunk.num_rows
        have = {
            role: clean_text(chunk.column(chunk.schema.get_field_index(name)))
            for role, name in self.columns.items()
            if role != "image"
        }
        text, codes = have["text"]
        url, given = (have[role][0] if role in have else pa.nulls(rows, pa.string()) for role in ("url", "sha256"))
        codes = [("missing_text", pc.is_null(text)), *codes]
        number = _numbers(start, rows).cast(pa.string())
        key = pc.binary_join_element_wise(pa.scalar(self._stem()), number, "/")
        if "key" in have:
            key = pc.coalesce(have["key"][0], key)
            codes.append(("unsafe_key", pc.match_substring_regex(key, UNSAFE_KEY)))
            codes += [("key_not_utf8", mask) for code, mask in have["key"][1] if code == "text_not_utf8"]
        return [key, url, text, pc.utf8_lower(given)], codes

    def _row_by_row(self, fields: list[pa.Array], codes: list[Code], column: pa.Array) -> Iterator[Record]:
        errors = joined(codes, len(column)).to_pylist()
        key, url, text = (array.to_pylist() for array in fields)
        for i in range(len(column)):
            image, code = _load_cell(column, i, self.columns["image"], self.folder)
            yield Record(key[i], url[i], text[i], join([c for c in (code, errors[i]) if c]), image)


def _bytes_of(column: pa.Array, name: str) -> pa.Array | None:
    """Return an image column as bytes; None when a path or base64 has to be followed for some row."""
    if is_binary(column.type) and not is_base64(name):
        return column if pa.types.is_large_binary(column.type) else column.cast(pa.binary())
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.binary())
    kind = column.type
    names = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    if "bytes" not in names or not is_binary(kind.field(names.index("bytes")).type):
        return None
    data = pc.struct_field(column, "bytes")  # what HF datasets write: null bytes mean that the path counts
    if data.null_count and "path" in names:
        path = pc.struct_field(column, "path")
        if pc.any(pc.and_(pc.is_null(data), pc.is_valid(path))).as_py():
            return None
    return data


@cache
def _row_numbers() -> pa.Array:
    return pa.array(range(ROW_GROUP), pa.int64())


def _numbers(start: int, rows: int) -> pa.Array:
    return pc.add(_row_numbers().slice(0, rows), start) if rows <= ROW_GROUP else pa.array(range(start, start + rows))


def _cuts(image: pa.Array, text: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield (begin, length) of slices of at most ROW_GROUP rows and BATCH_BYTES."""
    if len(image) <= ROW_GROUP and image.nbytes + text.nbytes <= BATCH_BYTES:
        yield 0, len(image)
        return
    sizes = np.zeros(len(image), np.int64)
    for column in (image, text):
        if column.null_count < len(column):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(image):
        before = int(ends[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        end = min(max(end, begin + 1), begin + ROW_GROUP)
        yield begin, end - begin
        begin = end


def load(value: object, column: str, folder: Folder) -> tuple[bytes | None, str | None]:
    """Return the image that a cell holds or names, and an error code when there is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None or value == "":
        return None, "missing_image"
    if is_base64(column) and isinstance(value, (str, bytes)):
        return _from_base64(value)
    if isinstance(value, bytes):
        return (value, None) if len(value) <= MAX_IMAGE else (None, "image_too_large")
    if isinstance(value, str):
        return folder.load(value)
    return None, "unsafe_path"


def _load_cell(column: pa.Array, row: int, name: str, folder: Folder) -> tuple[bytes | None, str | None]:
    try:
        return load(column[row].as_py(), name, folder)
    except UnicodeDecodeError:
        return None, "unsafe_path"


def _from_base64(value: str | bytes) -> tuple[bytes | None, str | None]:
    try:
        raw = value.encode() if isinstance(value, str) else value
        if raw.startswith(b"data:"):
            raw = raw.partition(b",")[2]
        return base64.b64decode(b"".join(raw.split()), validate=True), None
    except (binascii.Error, UnicodeEncodeError):
        return None, "bad_base64"


@dataclass
class JsonLines:
    """A file of one JSON object a line; a line that is none is a record with the error bad_json."""

    shard: Shard
    path: str
    folder: Folder

    def __post_init__(self) -> None:
        self.columns = dict(self.shard.columns)
        self._ahead, self._next = self._lines(), 0  # asked in ascending order, the file is read once

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA."""
        stem = posixpath.splitext(posixpath.basename(self.shard.url))[0]
        yield from batches(islice((self._record(line, f"{stem}/{i}") for i, line in self._lines()), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row, ascending)."""
        for wanted in rows.column("row").to_pylist():
            if wanted < self._next:
                self._ahead, self._next = self._lines(), 0
            line = next((line for row, line in self._ahead if row == wanted), None)
            self._next = wanted + 1
            yield None if line is None else self._image(parse_line(line))[0]

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        with open(self.path, "rb") as file:
            yield from enumerate(lines_of(file))

    def _image(self, fields: dict[str, object] | None) -> tuple[bytes | None, str | None]:
        name = self.columns.get("image", "image")
        return (None, "missing_image") if fields is None else load(fields.get(name), name, self.folder)

    def _record(self, line: bytes | None, default: str) -> Record:
        fields = parse_line(line)
        if fields is None:
            return Record(default, None, None, "bad_json", None)
        codes: list[str] = []
        image, code = (None, None) if self.shard.on_the_web else self._image(fields)
        text = as_text(fields.get(self.columns.get("text", "text")), codes)
        codes = ([code] if code else []) + (["missing_text"] if text is None else []) + codes
        key = as_text(fields.get(self.columns.get("key", "")))
        if _UNSAFE.search(key or ""):
            codes.append("unsafe_key")
        url = as_text(fields.get(self.columns.get("url", "")))
        codes += ["missing_url"] if url is None and self.shard.on_the_web else []
        given = (as_text(fields.get(self.columns.get("sha256", ""))) or "").lower() or None
        return Record(default if key is None else key, url, text, join(codes), image, None, given)


def lines_of(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a file that are not blank; None for one that is longer than MAX_LINE."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif line.strip():
            yield line


def parse_line(line: bytes | None) -> dict[str, object] | None:
    """Return the JSON object of a line; None when it is none."""
    try:
        fields = None if line is None else json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def broken(url: str, error: Exception) -> Exception:
    """Return the ShardBreak of a damaged table; an error of the operating system as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ShardBreak(f"{url}: {' '.join(str(error).split())[:300]}")


def inspect(url: str, path: str, kind: str, wanted: Mapping[str, str]) -> tuple[dict[str, str], Parts]:
    """Return the columns of a table by role, and the parts to cut it into ([None] = it stays whole).

    Raises InputError when its columns cannot be used; a table that cannot be read is left for the run to report.
    """
    if kind == "jsonl":
        return _inspect_jsonl(url, path, wanted), [None]
    try:
        reader: Parquet | Csv = Parquet(path) if kind == "parquet" else Csv(path, tabs=path.lower().endswith(".tsv"))
        columns = resolve(url, reader.names(), wanted)
        name = columns.get("image")
        sample = None if name is None else next(reader.chunks([name], 0), None)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{url}: {error.strerror}") from None
        return dict(wanted), [None]
    if name is not None and sample is not None:
        columns = on_the_web(columns, {name: _sample(url, name, sample[1].column(0))})
    return columns, _parts(reader) if isinstance(reader, Parquet) else [None]


def _sample(url: str, name: str, column: pa.Array) -> list[Any]:
    """Return values of an image column, where they are strings. Raises InputError when it cannot hold images."""
    kind = column.type
    column = column.dictionary_decode() if pa.types.is_dictionary(kind) else column
    if is_string(column.type):
        return list(clean_text(column.drop_null()[:SAMPLE_LINES])[0].to_pylist())
    if not (is_binary(column.type) or pa.types.is_struct(kind) or pa.types.is_null(kind)):
        raise InputError(f"{url}: column {name} cannot hold images, it is {kind}; name the one that does")
    return []


def _parts(reader: Parquet) -> Parts:
    """Cut a parquet file into runs of row groups of about SHARD_ROWS rows or SHARD_BYTES."""
    about = reader.file.metadata
    parts: Parts = []
    first, rows, size = 0, 0, 0
    for group in range(about.num_row_groups):
        rows += about.row_group(group).num_rows
        size += about.row_group(group).total_byte_size
        if rows >= SHARD_ROWS or size >= SHARD_BYTES or group == about.num_row_groups - 1:
            parts.append((first, group + 1))
            first, rows, size = group + 1, 0, 0
    return parts if len(parts) > 1 else [None]


def _inspect_jsonl(url: str, path: str, wanted: Mapping[str, str]) -> dict[str, str]:
    with open(path, "rb") as file:
        samples = [fields for line in islice(lines_of(file), SAMPLE_LINES) if (fields := parse_line(line)) is not None]
    names = list(dict.fromkeys(name for fields in samples for name in fields))
    if not names:  # nothing to judge by: empty, or not one valid line
        return dict(wanted)
    columns = resolve(url, names, wanted)
    name = columns.get("image")
    return columns if name is None else on_the_web(columns, {name: [fields.get(name) for fields in samples]})
