"""A JSON file as a table: one array of objects, one object of columns (SBU, pandas), or of rows with names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import islice
from typing import BinaryIO, Literal

import pyarrow as pa

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources.fields import Fields
from curate.sources.lines import SAMPLE_LINES
from curate.sources.linked_files import Folder
from curate.sources.packed import unpacked, with_packed
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.columns import GUESSES, without_images
from curate.sources.tables.json_values import Scanner
from curate.sources.tables.jsonl import JsonTable, inspected
from curate.sources.tables.reader import DAMAGE, broken
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

WHOLE = 8 << 20
"""Characters of an object that is read whole, to see whether it is a row or a table of lists."""

MOST = 256
"""Columns of an object of columns."""

FORMS = "a .json is one array of objects, one object of lists of the same length, or one object a line"

Form = Literal["rows", "named", "columns"]

Opening = Callable[[], AbstractContextManager[BinaryIO]]


def rows_of(opening: Opening) -> Iterator[Fields | None]:
    """Yield the rows of a file, None for one that is no object. Raises ArrowInvalid where it is damaged."""
    with opening() as file:
        scanner = Scanner(file)
        if scanner.peek() not in ("[", "{", ""):
            raise scanner.wrong(FORMS)
        form, first = _form(scanner, opening)
        yield from first
        if form == "rows":
            yield from map(_object, _values(scanner))
    if form == "named":
        yield from _named(opening)
    elif form == "columns":
        yield from _across(opening)


def _form(scanner: Scanner, opening: Opening) -> tuple[Form, list[Fields | None]]:
    """Return what a file is, and the first row where that was read: rows, one object of rows with names, or one of columns."""
    if scanner.peek() != "{":
        return "rows", []
    try:
        first = scanner.value(WHOLE)
    except OverflowError:
        with opening() as file:
            return _form_of_large(Scanner(file)), []
    if scanner.peek() or not isinstance(first, dict) or not first:
        return "rows", [_object(first)]
    values = list(first.values())
    if all(isinstance(value, list) for value in values) or _wrapped(first):
        return "columns", []
    if all(isinstance(value, dict) and value for value in values):  # pandas: an index and columns
        return ("columns" if next(iter(values[0])).isdigit() else "named"), []
    return "rows", [first]


def _form_of_large(scanner: Scanner) -> Form:
    """Return the form of an object, by its first values that are lists or objects."""
    objects = 0
    for _ in scanner.members():
        if scanner.peek() == "[":
            return "columns"
        if scanner.peek() != "{":
            scanner.bounded()
            continue
        for inner in scanner.members():
            if inner.isdigit():
                return "columns"
            scanner.bounded()
        objects += 1
        if objects > 1:
            break
    return "named"


def _wrapped(value: Fields) -> bool:
    """Return whether an object is no row, but has one list of rows and says something of it."""
    lists = [one for one in value.values() if isinstance(one, list)]
    known = {name for names in GUESSES.values() for name in names} & {name.lower() for name in value}
    return not known and len(lists) == 1 and bool(lists[0]) and isinstance(lists[0][0], dict)


def _values(scanner: Scanner) -> Iterator[object]:
    """Yield the objects of a file, in arrays or one after the other."""
    while sign := scanner.peek():
        if sign == "[":
            yield from scanner.items()
        else:
            yield scanner.bounded()


def _object(value: object) -> Fields | None:
    return value if isinstance(value, dict) else None


def _named(opening: Opening) -> Iterator[Fields | None]:
    """Yield the rows of an object of rows; the name of each is its key where it has none."""
    with opening() as file:
        scanner = Scanner(file)
        for name in scanner.members():
            row = _object(scanner.bounded())
            yield None if row is None else {"key": name, **row}


def _across(opening: Opening) -> Iterator[Fields | None]:
    """Yield the rows of an object of columns: all are read at the same time, each from its own place in the file."""
    with opening() as file:
        scanner = Scanner(file)
        places, counts = _located(scanner)
        encoding = scanner.plain()
    with ExitStack() as stack:
        columns = [Scanner(_at(stack.enter_context(opening()), place), place, encoding).inside() for place in places]
        for values in zip(*columns, strict=False):
            whole = len(values) == 1 and isinstance(values[0], dict)
            yield _object(values[0]) if whole else dict(zip(counts, values, strict=True))
    least, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[least] < counts[most]:
        raise pa.ArrowInvalid(f"{least} has {counts[least]} values where {most} has {counts[most]}")


def _located(scanner: Scanner) -> tuple[list[int], dict[str, int]]:
    """Return where the columns of an object begin, in bytes, and how many values each has, by name.

    Columns are lists; where there are none, objects (of pandas). Other values are skipped.
    """
    found: dict[str, tuple[str, int, int]] = {}
    for name in scanner.members():
        sign, place = scanner.peek(), scanner.place()
        if sign not in ("[", "{"):
            scanner.bounded()
            continue
        if name in found or len(found) == MOST:
            raise scanner.wrong(f"{name} is there twice" if name in found else f"more than {MOST} columns")
        found[name] = sign, place, sum(1 for _ in scanner.inside())
    kind = "[" if any(sign == "[" for sign, _, _ in found.values()) else "{"
    columns = {name: (place, count) for name, (sign, place, count) in found.items() if sign == kind}
    if not columns:
        raise scanner.wrong(FORMS)
    return [place for place, _ in columns.values()], {name: count for name, (_, count) in columns.items()}


def _at(file: BinaryIO, place: int) -> BinaryIO:
    """Return a file after so many bytes; packed ones cannot jump."""
    if file.seekable():
        file.seek(place)
        return file
    while place and (data := file.read(min(place, 1 << 20))):
        place -= len(data)
    return file


def _rows(url: str, file: InputFile) -> Iterator[Fields | None]:
    try:
        yield from rows_of(lambda: unpacked(url, file.stream))
    except DAMAGE as error:
        raise broken(url, error) from None


def _has_no_objects(url: str, file: InputFile) -> bool:
    """Return whether the first items of a file are all something else."""
    found: list[Fields | None] = []
    with suppress(ShardBreak):  # which the run will report
        found += islice(_rows(url, file), SAMPLE_LINES)
    return bool(found) and all(row is None for row in found)


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    with InputFile(entry.url, entry.size) as file:
        try:
            used = inspected(entry.url, lambda: _rows(entry.url, file), columns)
        except InputError as error:
            raise InputError(f"{error} ({FORMS})") from None
        if used == dict(columns) and _has_no_objects(entry.url, file):
            raise InputError(f"{entry.url}: its items are no objects; {FORMS}")
    return [shard_of(entry, SOURCE.kind, None, used, on_the_web=without_images(used))]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url) as file:

        def rows() -> Iterator[Fields | None]:
            file.path()
            return _rows(shard.url, file)

        yield JsonTable(shard, Folder.of_file(shard.url), rows)


SOURCE = Source("json", with_packed(".json"), _open, _list, beside=True, table=True)
"""One array of objects, or one object of columns; in a folder, JSON mostly describes other files."""
