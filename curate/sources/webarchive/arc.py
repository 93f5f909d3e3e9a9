"""ARC, the format before WARC: a line with URL, address, date, type and length, then what the server sent. Plain or gzip."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from curate.core.contracts import ShardBreak

HEADER = re.compile(rb"(\S+[^\n]*?) (\S+) (\d{12,14}|0+) (\S*[^\n]*?)[ \t]?(\d{1,18})\r?\n")
"""URL (which may hold spaces), address, date, type (and, in version 2, more), length."""

_BLOCK = 1 << 18
_LINE = 1 << 16


class Unpacked:
    """The decompressed bytes of a file, read forward; `offset` is where the next one is in the file (of gzip: its member)."""

    def __init__(self, file: BinaryIO, *, packed: bool) -> None:
        self._file, self._packed = file, packed
        self._member = zlib.decompressobj(31)
        self._stored, self._data, self._at = b"", b"", 0
        self._place, self._begin = file.tell(), file.tell()
        self.damage: str | None = None

    @property
    def offset(self) -> int:
        """Return the offset in the file of the next byte, which `more` must have loaded."""
        return self._begin if self._packed else self._place - (len(self._data) - self._at)

    def more(self) -> bool:
        """Load more bytes when none are left; return whether there are any."""
        while self._at >= len(self._data) and self.damage is None:
            if not self._packed:
                self._data, self._at = self._file.read(_BLOCK), 0
                self._place += len(self._data)
                if not self._data:
                    return False
            elif not self._inflate():
                return False
        return self._at < len(self._data)

    def _inflate(self) -> bool:
        """Unpack some of a member. Bytes of two members never come together, so `offset` is exact at their starts."""
        if self._member.eof:
            self._stored = self._member.unused_data
            self._member = zlib.decompressobj(31)
            self._begin = self._place - len(self._stored)
        if not self._stored:
            self._stored = self._file.read(_BLOCK)
            self._place += len(self._stored)
            if not self._stored:
                return False
        try:
            self._data, self._at = self._member.decompress(self._stored, _BLOCK), 0
        except zlib.error as error:
            self.damage, self._data, self._at = str(error), b"", 0
            return False
        self._stored = self._member.unconsumed_tail
        return True

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer where the file ends or is damaged."""
        parts = []
        while size > 0 and self.more():
            part = self._data[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def line(self) -> bytes:
        """Return a line with its end, at most _LINE bytes."""
        parts, size = [], 0
        while size < _LINE and self.more():
            end = self._data.find(b"\n", self._at) + 1
            part = self._data[self._at : end or len(self._data)]
            self._at += len(part)
            size += len(part)
            parts.append(part)
            if end:
                break
        return b"".join(parts)

    def blank(self) -> None:
        """Step over empty lines."""
        while self.more() and self._data[self._at] in b"\r\n\0":
            self._at += 1


@dataclass
class ArcRecord:
    """A record of an ARC."""

    number: int
    offset: int
    kind: str
    length: int
    fields: dict[str, str]
    source: Unpacked
    left: int

    def header(self, name: str) -> str | None:
        """Return a header, by the name that WARC has for it."""
        return self.fields.get(name)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of what the server sent."""
        found = self.source.read(min(size, self.left))
        self.left -= len(found)
        return found


def arc_records(path: str, start: int, *, packed: bool) -> Iterator[ArcRecord]:
    """Yield the records of an ARC from byte `start` on. Raises ShardBreak where it cannot be read any further."""
    with open(path, "rb") as file:
        file.seek(start)
        source, number = Unpacked(file, packed=packed), 0
        while True:
            source.blank()
            if not source.more():
                break
            offset = source.offset
            found = HEADER.fullmatch(source.line())
            if found is None:
                raise ShardBreak(f"damaged or cut off: no header of an ARC's record, at byte {offset}")
            url, _, date, media, length = (part.decode("utf-8", "replace") for part in found.groups())
            fields = {"WARC-Target-URI": url, "WARC-Date": date.ljust(14, "0"), "Content-Type": media.partition(" ")[0]}
            kind = "warcinfo" if url.startswith("filedesc:") else "response"
            record = ArcRecord(number, offset, kind, int(length), fields, source, int(length))
            yield record
            while record.left and record.read(_BLOCK):
                pass
            if record.left:
                raise ShardBreak(f"{_why(source)}, in the record at byte {offset}")
            number += 1
        if source.damage is not None:
            raise ShardBreak(f"{_why(source)}, after record {number}")


def _why(source: Unpacked) -> str:
    return "cut off" if source.damage is None else f"damaged ({source.damage})"
