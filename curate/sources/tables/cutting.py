"""Large files of text as parts, from the begin of a row to that of another: found with one small read for each cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO

from curate.core.contracts import Shard
from curate.sources.tables.csv_rows import LONGEST
from curate.storage.input_file import InputFile

PART = 64 << 20
"""Bytes of a part, about: a part is a shard, so that it must not depend on who reads it."""

_WINDOWS = (64 << 10, 2 * LONGEST)  # bytes that are read to find a row: mostly few are enough

Parts = Sequence[tuple[int, int] | None]
"""Begin and end of each part in bytes; [None] = the file stays whole."""


def cut(file: InputFile, size: int, start: Callable[[bytes], int | None]) -> Parts:
    """Return the parts of a file of `size` bytes: cut after each PART bytes, at the next place where a row begins.

    `start` returns where a row begins in bytes from anywhere in the file, None where it cannot tell: there is no cut then.
    """
    wanted = list(range(PART, size - PART // 2, PART))
    found: dict[int, int] = {}
    for window in _WINDOWS:
        if not (asked := [place for place in wanted if place not in found]):
            break
        # from the byte before: the newline of a row that ends there
        pieces = file.pieces((place - 1, min(window, size - place + 1)) for place in asked)
        for place, data in zip(asked, pieces, strict=True):
            if data is not None and (begin := start(data)) is not None:
                found[place] = place - 1 + begin
    cuts = [0, *sorted({begin for begin in found.values() if begin < size}), size]
    return list(pairwise(cuts)) if len(cuts) > 2 else [None]


def line_start(data: bytes) -> int | None:
    """Return where a line begins in bytes from anywhere in a file; None without a newline."""
    return data.find(b"\n") + 1 or None


def chunks(file: BinaryIO, begin: int, end: int | None) -> Iterator[bytes]:
    """Yield the bytes of a part of a file, to its end if `end` is None. Raises EOFError for a file that ends before."""
    if end is None:
        yield from iter(lambda: file.read(LONGEST), b"")
        return
    file.seek(begin)
    while begin < end:
        data = file.read(min(LONGEST, end - begin))
        if not data:
            raise EOFError(f"the file ends at byte {begin}; it was longer when it was listed")
        yield data
        begin += len(data)


def resized(shard: Shard) -> Shard:
    """Return a shard of a part with the bytes of that part as its size."""
    return shard if shard.part is None else replace(shard, size=shard.part[1] - shard.part[0])
