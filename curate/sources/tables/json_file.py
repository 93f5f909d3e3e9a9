"""A JSON file as a table: one array of objects, or one object of lists that are equally long, each a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import islice
from typing import BinaryIO

import pyarrow as pa

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources.fields import Fields
from curate.sources.lines import SAMPLE_LINES
from curate.sources.linked_files import Folder
from curate.sources.packed import unpacked, with_packed
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.columns import without_images
from curate.sources.tables.json_values import Scanner
from curate.sources.tables.jsonl import JsonTable, inspected
from curate.sources.tables.reader import DAMAGE, broken
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

WHOLE = 8 << 20
"""Characters of an object that is read whole, to see whether it is a row or a table of lists."""

MOST = 256
"""Lists of a table of lists."""

FORMS = "a .json is one array of objects, one object of lists of the same length, or one object a line"

Opening = Callable[[], AbstractContextManager[BinaryIO]]


def rows_of(opening: Opening) -> Iterator[Fields | None]:
    """Yield the rows of a file, None for one that is no object. Raises ArrowInvalid where it is damaged."""
    with opening() as file:
        scanner = Scanner(file)
        if scanner.peek() not in ("[", "{", ""):
            raise scanner.wrong(FORMS)
        lists = scanner.peek() == "{"
        if lists:
            try:
                first = scanner.value(WHOLE)
            except OverflowError:
                pass
            else:
                lists = not scanner.peek() and _is_lists(first)
                yield from () if lists else (_object(first),)
        if not lists:
            yield from map(_object, _values(scanner))
    if lists:
        yield from _across(opening)


def _values(scanner: Scanner) -> Iterator[object]:
    """Yield the objects of a file, in arrays or one after the other."""
    while sign := scanner.peek():
        if sign == "[":
            yield from scanner.items()
        else:
            yield scanner.bounded()


def _is_lists(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, list) for one in value.values())


def _object(value: object) -> Fields | None:
    return value if isinstance(value, dict) else None


def _across(opening: Opening) -> Iterator[Fields]:
    """Yield the rows of an object of lists: all are read at the same time, each from its own place in the file."""
    with opening() as file:
        scanner = Scanner(file)
        places, counts = _located(scanner)
        encoding = scanner.plain()
    with ExitStack() as stack:
        columns = [Scanner(_at(stack.enter_context(opening()), place), place, encoding).items() for place in places]
        for values in zip(*columns, strict=False):
            yield dict(zip(counts, values, strict=True))
    least, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[least] < counts[most]:
        raise pa.ArrowInvalid(f"{least} has {counts[least]} values where {most} has {counts[most]}")


def _located(scanner: Scanner) -> tuple[list[int], dict[str, int]]:
    """Return where the lists of an object begin, in bytes, and how many items each has, by name. Other values are skipped."""
    places: list[int] = []
    counts: dict[str, int] = {}
    for name in scanner.members():
        if scanner.peek() != "[":
            scanner.bounded()
            continue
        if name in counts or len(counts) == MOST:
            raise scanner.wrong(f"{name} is there twice" if name in counts else f"more than {MOST} lists")
        places.append(scanner.place())
        counts[name] = sum(1 for _ in scanner.items())
    if not counts:
        raise scanner.wrong(FORMS)
    return places, counts


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


SOURCE = Source("json", with_packed(".json"), _open, _list, beside=True)
"""One array of objects, or one object of lists; in a folder, JSON mostly describes other files."""
