"""The members of a tar: a scanner of 512-byte headers, because Python's tarfile takes 80 us for a pair.

Reads v7, ustar, GNU (long names, base-256 sizes) and pax (path, size).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from curate.core.contracts import ShardBreak

BLOCK = 512
BUFFER = 1 << 20
MAX_EXTENDED = 1 << 20  # a long name or pax header above this is an attack

_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s24x12s12x8s1x100x6s82xc166x")  # name, size, checksum, magic, first byte of the prefix
_REGULAR, _NO_DATA, _SPARSE = b"0\x007", b"123456", ord("S")
_LONG_NAME, _PAX = ord("L"), ord("x")
_ABOUT_NEXT = b"LxKg"  # headers that are no members: of a long name, pax, of a long link, pax for all


class Member(NamedTuple):
    """A regular file in a tar: its name as bytes, the offset of its data, and their size in bytes."""

    name: bytes
    offset: int
    size: int


class Cut(ShardBreak):
    """A break, with the name of the damaged member; None when it is unknown."""

    def __init__(self, message: str, name: bytes | None, *, between: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.between = between  # the members before it are whole: only the end mark is missing

    def hits(self, key: bytes) -> bool:
        """Return whether the damaged member may belong to the record `key`."""
        if self.name is None or self.name.startswith(b"././@") or b"PaxHeader" in self.name:
            return True
        # only the last parts are compared: a broken header may lack the folder, which ustar keeps in another field
        return self.name.rpartition(b"/")[2].startswith(key.rpartition(b"/")[2] + b".")


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of a tar, with `file` positioned at the member's data.

    Raises ShardBreak where a header's checksum is wrong, a size makes no sense, or the file ends too early: a whole tar ends
    with a block of zeros (two, by the standard; one is enough here).
    """
    return iter(_Scanner(file))


@dataclass
class _Scanner:
    file: BinaryIO
    at: int = 0
    end: int = 0
    path: bytes | None = None  # from a long-name or pax header, for the member after it
    size: int | None = None
    sparse: bool = False
    extended: bool = False

    def __iter__(self) -> Iterator[Member]:
        self.end = self.file.seek(0, os.SEEK_END)
        ended = False
        while self.at < self.end:
            self.file.seek(self.at)
            block = self.file.read(BLOCK)
            if len(block) < BLOCK:
                known = b"\0" in block[:100] and not self.extended
                raise Cut(self._cut_header(), _text(block[:100]) if known else None)
            if block[0] == 0 and block == _ZERO:
                ended = True
                break
            member = self._member(block)
            if member is not None:
                yield member
        if self.extended or self.at > self.end:
            raise Cut(f"cut off at byte {self.end}, after a member or before what its header announces", None)
        if not ended:
            what = f"cut off at byte {self.end}, after a member: there is no end mark" if self.end else "empty: no tar, at byte 0"
            raise Cut(what, None, between=True)
        self._check_end()

    def _cut_header(self) -> str:
        return f"cut off at byte {self.end}, in a header" if self.at else "not a tar, at byte 0"

    def _member(self, block: bytes) -> Member | None:
        """Step over the header in `block` and its data; return the member when it is a regular file."""
        name, digits, stored, magic, prefix = _HEADER.unpack(block)
        name = name.partition(b"\0")[0]
        if not _checksum_holds(block, stored):
            message = f"wrong header checksum at byte {self.at}" if self.at else "not a tar, at byte 0"
            raise Cut(message, None if self.extended else name)
        if prefix != b"\0" and magic == b"ustar\0":
            name = _text(block[345:500]) + b"/" + name
        kind, data = block[156], self.at + BLOCK
        size = _number(digits)
        if kind not in _REGULAR or self.extended:
            name, data, size = self._unusual(block, name, size)
        if size is None or size < 0:
            raise Cut(f"impossible size at byte {self.at}, in member {shown(name)}", name)
        folder = name.endswith(b"/")
        if kind in _NO_DATA or (kind == 0 and folder):
            size = 0
        if data + size > self.end:
            known = None if kind in (_LONG_NAME, _PAX) else name
            raise Cut(f"cut off at byte {self.end}, in member {shown(name)}", known)
        self.at = data + (size + 511 & ~511)
        if kind in _ABOUT_NEXT:
            self._extend(kind, size, data)
            return None
        plain = kind in _REGULAR and not self.sparse and not folder
        if self.extended:
            self.path, self.size, self.sparse, self.extended = None, None, False, False
        return Member(name, data, size) if plain else None

    def _unusual(self, block: bytes, name: bytes, size: int | None) -> tuple[bytes, int, int | None]:
        """Return name, place of the data, and size, of a member that has extended headers or is no plain file."""
        more = self._sparse_headers(block) if block[156] == _SPARSE else 0
        if block[156] in _ABOUT_NEXT:
            return name, self.at + BLOCK, size
        return self.path or name, self.at + BLOCK + more, size if self.size is None else self.size

    def _sparse_headers(self, block: bytes) -> int:
        more, length = block[482], 0
        while more:
            block = self.file.read(BLOCK)
            if len(block) < BLOCK:
                raise Cut(f"cut off at byte {self.end}, in a sparse file's map", None)
            more, length = block[504], length + BLOCK
        return length

    def _extend(self, kind: int, size: int, at: int) -> None:
        """Remember the fields of a long-name or pax header for the next member."""
        if kind not in (_LONG_NAME, _PAX):
            return
        if size > MAX_EXTENDED:
            raise Cut(f"impossible size at byte {at - BLOCK}, of a name or pax header", None)
        data = self.file.read(size)
        self.extended = True
        if kind == _LONG_NAME:
            self.path = self.path or _text(data)
            return
        try:
            fields = dict(_pax(data))
            self.size = int(fields[b"size"]) if b"size" in fields else self.size
        except ValueError:
            raise Cut(f"broken pax header at byte {at - BLOCK}", None) from None
        self.path = fields.get(b"path") or self.path
        self.sparse = self.sparse or any(name.startswith(b"GNU.sparse.") for name in fields)

    def _check_end(self) -> None:
        """Raise ShardBreak when anything but zeros follows the end mark: a hole must not pass for the end."""
        self.file.seek(min(self.at, self.end))
        while chunk := self.file.read(BUFFER):
            if chunk.count(0) != len(chunk):
                raise Cut(f"data after the end mark at byte {self.at}", None)


def _checksum_holds(block: bytes, stored: bytes) -> bool:
    try:
        said = int(stored[:6] if stored[6] == 0 else _text(stored), 8)
    except ValueError:
        return False
    others = 256 - sum(stored)
    # adler32's lower half is the sum of the bytes, plus one, modulo 65521: 20 times faster than sum()
    if (said - others - (zlib.adler32(block) & 0xFFFF) + 1) % 65521 == 0:
        return True
    negative = sum(1 for byte in block[:148] + block[156:] if byte > 127)  # old tars summed signed bytes
    return said == others + sum(block) - 256 * negative


def _number(raw: bytes) -> int | None:
    """Parse an octal or base-256 number; None when it is neither."""
    if raw[0] & 0x80:
        return int.from_bytes(raw, "big", signed=True) if raw[0] == 0xFF else int.from_bytes(raw[1:], "big")
    if raw[11] != 0 or 0 in raw[:11]:
        raw = b"%12s" % (_text(raw).strip() or b"0")
    try:
        return int(raw[:-1] if raw[-1] == 0 else raw, 8)
    except ValueError:
        return None


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def shown(name: bytes) -> str:
    """Return a member's name for a message."""
    return name[:200].decode(errors="replace").replace("\n", " ")


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a pax header. Raises ValueError when it is not well-formed."""
    at = 0
    while at < len(data) and data[at]:
        space = data.index(b" ", at, at + 20)
        length = int(data[at:space])
        name, equals, value = data[space + 1 : at + length].partition(b"=")
        if length <= space - at or at + length > len(data) or not equals or not value.endswith(b"\n"):
            raise ValueError("pax field")
        yield name, value[:-1]
        at += length
