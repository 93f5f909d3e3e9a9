"""The records of WARC (WAT, WET) and ARC files, plain, gzip, zstd or LZ4. After damage, reading goes on at the next record.

Knows no HTML. Formats are detected by their first bytes; the older ARC is read by curate.sources.webarchive.arc.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from curate.core.contracts import ShardBreak

MAX_DAMAGE = 10_000
"""Damaged places of a file after which nothing more is read."""

_BLOCK = 1 << 20
_GZIP, _ZSTD, _LZ4 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # the dictionary of a .warc.zst is in such a frame
_WARC, _ARC = b"WARC/", re.compile(rb"filedesc:|[a-z]+://\S+ [0-9.]+ \d{14} ")
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T?(\d\d)?:?(\d\d)?:?(\d\d)?")
_STARTS = {"gzip": re.compile(rb"\x1f\x8b\x08"), "plain": re.compile(rb"(?<=\n)WARC/[01]\.\d\r?\n")}
_BARE = re.compile(rb"WARC/[01]\.\d\n")  # a header whose lines end with LF alone
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zlib.error)


@dataclass
class Tally:
    """Counts of what was read from an archive, and of damage."""

    pages: int = 0
    images: int = 0  # all of them
    with_alt: int = 0
    pairs: int = 0
    apart: bool = True  # whether each record can be read again from its offset: no two share a compressed block
    damaged: Counter[str] = field(default_factory=Counter)  # by reason: see DAMAGES of curate.sources.webarchive.pairs


class Record(Protocol):
    """One record. Its content can be read once, before the next record is requested."""

    number: int  # in the file, from 0
    offset: int  # in the file as stored
    kind: str  # response, resource, metadata, revisit, ...
    length: int  # bytes of its content

    def header(self, name: str) -> str | None:
        """Return a header of the archive's own (not of HTTP)."""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; fewer at the end, and where the file is damaged."""


@dataclass
class WarcRecord:
    """A record that FastWARC reads."""

    number: int
    offset: int
    kind: str
    length: int
    source: Any
    broken: bool = False
    got: int = 0  # bytes that were read

    def header(self, name: str) -> str | None:
        """Return a WARC header."""
        value = self.source.headers.get(name)
        return None if value is None else str(value)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of the block."""
        size = min(size, self.length - self.got)  # the reader allocates as much as is requested
        if self.broken or size <= 0:
            return b""
        try:
            found: bytes = self.source.reader.read(size)
        except _DAMAGE:
            self.broken = True
            return b""
        self.got += len(found)
        return found


def records(path: str, tally: Tally, start: int = 0) -> Iterator[Record]:
    """Yield the records of a file, from the one at byte `start`; damaged ones are skipped and counted.

    Raises ShardBreak where nothing more can be read, OSError when the file is not there.
    """
    packed, head = _head(path)
    tally.apart = tally.apart and packed in ("plain", "gzip")
    if head.startswith(_WARC):
        yield from _noted(_Warc(path, packed, tally).records(start), path if packed == "gzip" else None, tally)
    elif _ARC.match(head):
        if packed not in ("plain", "gzip"):
            raise ShardBreak(f"an ARC packed with {packed} is not read, at byte 0")
        from curate.sources.webarchive.arc import arc_records

        yield from _noted(arc_records(path, start, packed=packed == "gzip"), path if packed == "gzip" else None, tally)
    else:
        problem = "damaged or not a web archive" if packed != "plain" else "not a web archive (WARC, WAT or ARC)"
        raise ShardBreak(f"{problem}, at byte 0")


def _noted(found: Iterator[Record], path: str | None, tally: Tally) -> Iterator[Record]:
    """Yield records; note whether gzip members (of a `path`) hold several: the offset of all but the first is the next one's."""
    last, size = -1, os.path.getsize(path) if path else 0
    for record in found:
        if path and not last < record.offset < size:
            tally.apart = False
        last = record.offset
        yield record


def when(record: Record) -> int | None:
    """Return when a record was made, in seconds since 1970 (UTC); None where it does not say so."""
    import calendar

    found = _DATE.match(record.header("WARC-Date") or "")
    if found is None:
        return None
    parts = [int(part or 0) for part in found.groups()]
    if not (1 <= parts[1] <= 12 and 1 <= parts[2] <= 31 and parts[0] >= 1 and parts[3] < 24 and max(parts[4:6]) <= 60):
        return None
    return calendar.timegm((parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]))


def _head(path: str) -> tuple[str, bytes]:
    """Return how a file is packed, and its first bytes unpacked."""
    with open(path, "rb") as file:
        stored = file.read(1 << 16)
    if stored.startswith(_GZIP):
        return "gzip", _inflated(stored, 512)
    if stored.startswith(_LZ4):
        return "lz4", _unpacked(path, "Lz4Reader")
    if stored.startswith(_ZSTD) or _ZSTD_SKIPPABLE.match(stored):
        return "zstd", _unpacked(path, "ZstdReader")
    return "plain", stored[:512].lstrip()


def _unpacked(path: str, reader: str) -> bytes:
    from fastwarc import stream_io

    try:
        with open(path, "rb") as file:
            return bytes(getattr(stream_io, reader)(file).read(512))
    except _DAMAGE:
        return b""


@dataclass
class _Warc:
    path: str
    packed: str
    tally: Tally
    number: int = 0
    last: WarcRecord | None = None
    member: int = 0  # where the last gzip member starts that is known

    def records(self, at: int) -> Iterator[Record]:
        size, self.member = os.path.getsize(self.path), at
        for _ in range(MAX_DAMAGE):
            self.last, first = None, self.number
            why = yield from self._from(at)
            if why is None and (why := self._unfinished(size)) is None:
                return
            # a length may be wrong, and the next record begin inside what it claims
            following = self._next((at if self.last is None else self.last.offset) + 1)
            if following is None:
                raise ShardBreak(f"{why}, in or after the record at byte {self.last.offset if self.last else at}")
            if self.number > first or at == 0:  # else the place itself could not be read, and is counted
                self.tally.damaged["damaged_record"] += 1
            at = following
        raise ShardBreak(f"damaged in more than {MAX_DAMAGE} places, at byte {at}")

    def _from(self, at: int) -> Generator[Record, None, str | None]:
        """Yield records from an offset on; return why reading stopped, None for what looks like the end of the file."""
        from fastwarc.warc import ArchiveIterator

        bare, size = self._is_bare(at), os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            file.seek(at)
            try:
                for found in ArchiveIterator(file, parse_http=False, quirks_mode=bare):
                    kind = str(found.record_type)
                    if kind == "unknown" and not bare and self._is_bare(found.stream_pos):  # not read as a header without it
                        return (yield from self._from(found.stream_pos))
                    self.last = WarcRecord(self.number, found.stream_pos, kind, found.content_length, found)
                    self.number += 1
                    if found.stream_pos < size:  # else it is not the first of its member, and this is where that ends
                        self.member = found.stream_pos
                    yield self.last
                    if self.packed in ("zstd", "lz4"):  # one frame may hold many records: none can be looked at again
                        while self.last.read(_BLOCK):
                            pass
            except _DAMAGE as error:
                return f"damaged ({error})"
        return "damaged" if self.last is not None and self.last.broken else None

    def _is_bare(self, at: int) -> bool:
        with open(self.path, "rb") as file:
            file.seek(at)
            data = file.read(4096)
        return _BARE.match(_inflated(data, 16) if self.packed == "gzip" else data.lstrip()) is not None

    def _unfinished(self, size: int) -> str | None:
        """Return a message when the file ends in the middle of its last record, else None."""
        if self.last is None:
            return None if size == 0 else f"damaged or cut off at byte {size}"
        cut = f"cut off at byte {size}"
        if self.last.header("Content-Length") is None:
            return cut
        if self.packed == "gzip":
            return None if self._gzip_ends() else cut
        if self.packed != "plain":
            return None if self.last.got >= self.last.length else cut
        from fastwarc.warc import ArchiveIterator

        read = 0
        with open(self.path, "rb") as file:
            file.seek(self.last.offset)
            try:
                again = next(iter(ArchiveIterator(file, parse_http=False, quirks_mode=self._is_bare(self.last.offset))))
                while some := again.reader.read(_BLOCK):
                    read += len(some)
            except (*_DAMAGE, StopIteration):
                return cut
        return None if read >= self.last.length else cut

    def _gzip_ends(self) -> bool:
        """Return whether the last members are whole. Zeros after them are padding."""
        with open(self.path, "rb") as file:
            file.seek(self.member)
            member, data = zlib.decompressobj(31), file.read(_BLOCK)
            begun = False
            while data:
                try:
                    data = self._through(member, data)
                except zlib.error:
                    return False
                begun = not member.eof
                if member.eof:
                    member = zlib.decompressobj(31)
                    data = data.lstrip(b"\0")
                data = data or file.read(_BLOCK)
        return not begun

    def _through(self, member: Any, data: bytes) -> bytes:
        """Decompress a member and discard it, a little at a time; return the bytes after it."""
        while data and not member.eof:
            member.decompress(data, _BLOCK)
            data = member.unused_data if member.eof else member.unconsumed_tail
        return data

    def _next(self, after: int) -> int | None:
        """Return where the next record starts, from byte `after` on; None when there is none that could be found."""
        pattern = _STARTS.get(self.packed)
        if pattern is None:
            return None
        with open(self.path, "rb") as file:
            begin, held = after, b""
            file.seek(after)
            while some := file.read(_BLOCK):
                data = held + some
                for match in pattern.finditer(data):
                    if self.packed == "plain" or _inflated(data[match.start() : match.start() + 4096], 16).startswith(_WARC):
                        return begin + match.start()
                held = data[-64:]
                begin += len(data) - len(held)
        return None


def _inflated(packed: bytes, size: int) -> bytes:
    """Return the first bytes of a gzip member, none when it is none."""
    try:
        return zlib.decompressobj(31).decompress(packed, size)
    except zlib.error:
        return b""
