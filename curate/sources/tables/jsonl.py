"""JSON lines: each line parsed by itself, a bad one is a record with an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from curate.core.contracts import Batch, Shard
from curate.sources.kept import kept, said
from curate.sources.lines import SAMPLE_LINES, lines_of, parse_line
from curate.sources.linked_files import Folder
from curate.sources.packed import is_packed, unpacked, with_packed
from curate.sources.records import UNSAFE_KEY, Record, as_text, batches, join
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.cells import load
from curate.sources.tables.columns import on_the_web, resolve, without_images
from curate.sources.tables.cutting import Parts, cut, line_start, resized
from curate.sources.tables.reader import DAMAGE, broken, is_damage, stem
from curate.sources.texts import Texts, of_lines, of_value, together
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

_UNSAFE = re.compile(UNSAFE_KEY)


@dataclass
class JsonLines:
    """A file of one JSON object a line; any other line becomes a record with the error bad_json."""

    shard: Shard
    file: InputFile
    folder: Folder

    def __post_init__(self) -> None:
        self.columns = dict(self.shard.columns)
        self._ahead, self._next = self._lines(), 0  # for ascending rows the file is read once

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA."""
        yield from batches(islice((self._record(line, f"{stem(self.shard)}/{i}") for i, line in self._lines()), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row, ascending)."""
        for wanted in rows.column("row").to_pylist():
            if wanted < self._next:
                self._ahead, self._next = self._lines(), 0
            line = next((line for row, line in self._ahead if row == wanted), None)
            self._next = wanted + 1
            yield None if line is None else self._image(parse_line(line))[0]

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        if self.shard.part is None:
            self.file.path()
        begin, end = self.shard.part or (0, None)
        try:
            with unpacked(self.shard.url, self.file.stream) as file:
                yield from enumerate(lines_of(file, begin, end))
        except DAMAGE as error:
            raise broken(self.shard.url, error) from None

    def _image(self, fields: dict[str, object] | None) -> tuple[bytes | None, str | None]:
        name = self.columns.get("image", "image")
        return (None, "missing_image") if fields is None else load(fields.get(name), name, self.folder)

    def _record(self, line: bytes | None, default: str) -> Record:
        fields = parse_line(line)
        if fields is None:
            return Record(default, None, None, "bad_json", None)
        codes: list[str] = []
        image, code = (None, None) if self.shard.on_the_web else self._image(fields)
        text, more = self._texts(fields, codes)
        codes = ([code] if code else []) + (["missing_text"] if text is None else []) + codes
        key = as_text(fields.get(self.columns.get("key", "")))
        if _UNSAFE.search(key or ""):
            codes.append("unsafe_key")
        url = as_text(fields.get(self.columns.get("url", "")))
        codes += ["missing_url"] if url is None and self.shard.on_the_web else []
        given = (as_text(fields.get(self.columns.get("sha256", ""))) or "").lower() or None
        further = kept(fields, said(self.columns))
        return Record(default if key is None else key, url, text, join(codes), image, None, given, None, more, further)

    def _texts(self, fields: dict[str, object], codes: list[str]) -> Texts:
        name = self.columns.get("text", "text")
        found = of_value(fields.get(name), codes)
        if self.columns.get("texts") == "lines":
            found = [line for text in found for line in of_lines(text)]
        return together(found, codes)


def _inspect(url: str, file: InputFile, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the columns by role, judged by the first lines. Raises InputError when they cannot be used."""
    samples: list[dict[str, object]] = []
    try:
        with unpacked(url, file.stream) as opened:
            for line in islice(lines_of(opened), SAMPLE_LINES):
                samples += [fields] if (fields := parse_line(line)) is not None else []
    except DAMAGE as error:
        if not is_damage(error):
            raise
    names = list(dict.fromkeys(name for fields in samples for name in fields))
    if not names:  # nothing to judge by: empty, or not one valid line
        return dict(wanted)
    columns = resolve(url, names, wanted)
    name = columns.get("image")
    return columns if name is None else on_the_web(columns, {name: [fields.get(name) for fields in samples]})


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    with InputFile(entry.url, entry.size) as file:
        used = _inspect(entry.url, file, columns)
        parts: Parts = [None] if is_packed(entry.url) else cut(file, entry.size, line_start)
    return [resized(shard_of(entry, SOURCE.kind, part, used, on_the_web=without_images(used))) for part in parts]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url) as file:
        yield JsonLines(shard, file, Folder.of_file(shard.url))


SOURCE = Source("jsonl", with_packed(".jsonl", ".ndjson"), _open, _list)
"""One JSON object a line, with image paths, base64 or URLs."""
