"""JSON lines: each line parsed by itself, a bad one is a record with an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from curate.core.contracts import Batch, Shard, ShardBreak
from curate.sources.fields import Fields, field_of, names_of
from curate.sources.kept import kept, said
from curate.sources.lines import SAMPLE_LINES, lines_of, parse_line
from curate.sources.linked_files import Folder
from curate.sources.packed import is_packed, unpacked, with_packed
from curate.sources.records import UNSAFE_KEY, Record, as_text, batches, join
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.cells import load
from curate.sources.tables.columns import on_the_web, resolve, without_images
from curate.sources.tables.cutting import Parts, cut, line_start, resized
from curate.sources.tables.reader import DAMAGE, broken, stem
from curate.sources.texts import Texts, of_lines, of_value, together
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

_UNSAFE = re.compile(UNSAFE_KEY)


class Item(NamedTuple):
    """A row of a table, and the number of its image where it has several."""

    row: bytes | Fields | None
    number: int | None


@dataclass
class JsonTable:
    """Rows that are JSON objects; anything else becomes a record with the error bad_json. A row of a list of images is several.

    `rows` yields all rows, as bytes, as objects, or None. Raises ShardBreak.
    """

    shard: Shard
    folder: Folder
    rows: Callable[[], Iterator[bytes | Fields | None]]

    def __post_init__(self) -> None:
        self.columns = dict(self.shard.columns)
        self.listed = self.columns.get("image") or self.columns.get("url", "image")
        self._ahead, self._next = self._items(), 0  # for ascending rows the file is read once

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA."""
        name = stem(self.shard)
        yield from batches(islice((self._record(item, f"{name}/{i}") for i, item in self._items()), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row, ascending)."""
        for wanted in rows.column("row").to_pylist():
            if wanted < self._next:
                self._ahead, self._next = self._items(), 0
            item = next((item for row, item in self._ahead if row == wanted), None)
            self._next = wanted + 1
            yield None if item is None else self._image(_fields(item.row), item.number)[0]

    def _items(self) -> Iterator[tuple[int, Item]]:
        return enumerate(item for row in self.rows() for item in self._items_of(row))

    def _items_of(self, row: bytes | Fields | None) -> Iterator[Item]:
        """Yield a row once for each of its images."""
        listed = None
        if not isinstance(row, bytes) or b"[" in row:  # others need not be parsed to be counted
            row = _fields(row)
            listed = None if row is None else field_of(row, self.listed)
        if isinstance(listed, list) and len(listed) > 1 and not isinstance(listed[0], int):
            yield from (Item(row, number) for number in range(len(listed)))
        else:
            yield Item(row, None)

    def _image(self, fields: Fields | None, number: int | None) -> tuple[bytes | None, str | None]:
        name = self.columns.get("image", "image")
        return (None, "missing_image") if fields is None else load(_one(field_of(fields, name), number), name, self.folder)

    def _record(self, item: Item, default: str) -> Record:
        fields = _fields(item.row)
        if fields is None:
            return Record(default, None, None, "bad_json", None)
        codes: list[str] = []
        web = self.shard.on_the_web
        image, code = (None, None) if web else self._image(fields, item.number)
        text, more = self._texts(fields, codes)
        codes = ([code] if code else []) + (["missing_text"] if text is None else []) + codes
        key = as_text(self._value(fields, "key"))
        if _UNSAFE.search(key or ""):
            codes.append("unsafe_key")
        own = key if key is None or item.number is None else f"{key}/{item.number}"
        url = as_text(_one(self._value(fields, "url"), item.number if web else None))
        codes += ["missing_url"] if url is None and web else []
        given = (as_text(self._value(fields, "sha256")) or "").lower() or None
        further = kept(fields, said(self.columns))
        return Record(default if own is None else own, url, text, join(codes), image, None, given, None, more, further)

    def _value(self, fields: Fields, role: str) -> object:
        return field_of(fields, self.columns[role]) if role in self.columns else None

    def _texts(self, fields: Fields, codes: list[str]) -> Texts:
        found = of_value(field_of(fields, self.columns.get("text", "text")), codes)
        if self.columns.get("texts") == "lines":
            found = [line for text in found for line in of_lines(text)]
        return together(found, codes)


def _fields(row: bytes | Fields | None) -> Fields | None:
    return parse_line(row) if isinstance(row, bytes) else row


def _one(value: object, number: int | None) -> object:
    """Return the image of a value: that of a `number` in a list, or the only one."""
    if not isinstance(value, list) or not value or isinstance(value[0], int):
        return value
    return value[number or 0]


def inspected(url: str, rows: Callable[[], Iterator[bytes | Fields | None]], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the columns by role, judged by the first rows. Raises InputError when they cannot be used."""
    samples: list[Fields] = []
    with suppress(ShardBreak):  # which the run will report
        samples += [fields for row in islice(rows(), SAMPLE_LINES) if (fields := _fields(row)) is not None]
    names = list(dict.fromkeys(name for fields in samples for name in names_of(fields)))
    if not names:  # nothing to judge by: empty, or not one valid row
        return dict(wanted)
    columns = resolve(url, names, wanted)
    name = columns.get("image")
    return columns if name is None else on_the_web(columns, {name: [field_of(fields, name) for fields in samples]})


def _lines(url: str, file: InputFile, part: tuple[int, int] | None = None) -> Iterator[bytes | None]:
    begin, end = part or (0, None)
    try:
        with unpacked(url, file.stream) as opened:
            yield from lines_of(opened, begin, end)
    except DAMAGE as error:
        raise broken(url, error) from None


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    with InputFile(entry.url, entry.size) as file:
        used = inspected(entry.url, lambda: _lines(entry.url, file), columns)
        parts: Parts = [None] if is_packed(entry.url) else cut(file, entry.size, line_start)
    return [resized(shard_of(entry, SOURCE.kind, part, used, on_the_web=without_images(used))) for part in parts]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url) as file:

        def lines() -> Iterator[bytes | None]:
            if shard.part is None:
                file.path()
            return _lines(shard.url, file, shard.part)

        yield JsonTable(shard, Folder.of_file(shard.url), lines)


SOURCE = Source("jsonl", with_packed(".jsonl", ".ndjson"), _open, _list, table=True)
"""One JSON object a line, with image paths, base64 or URLs."""
