"""The members of a tar: a scanner of 512-byte headers, because Python's tarfile takes 80 us for a pair.

Reads v7, ustar, GNU (long names, base-256 sizes, sparse files), pax (path, size, sparse files), and hard links to members before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from curate.core.contracts import ShardBreak
from curate.sources.tar import sparse
from curate.sources.tar.header import checksum_holds, number, pax_fields, shown, text
from curate.sources.tar.sparse import Map, Piece

BLOCK = 512
BUFFER = 1 << 20
MAX_EXTENDED = 1 << 20  # a long name or pax header above this is an attack

_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s24x12s12x8s1x100x6s82xc166x")  # name, size, checksum, magic, first byte of the prefix
_REGULAR, _NO_DATA, _SPARSE, _LINK = b"0\x007", b"123456", ord("S"), ord("1")
_LONG_NAME, _LONG_LINK, _PAX = ord("L"), ord("K"), ord("x")
_ABOUT_NEXT = b"LxKg"  # headers that are no members: of a long name, pax, of a long link, pax for all


SPARSE = 1 << 59
"""Bit of the offsets of sparse members: they are the places of their first headers, from which they are read again."""


class Member(NamedTuple):
    """A regular file in a tar: its name as bytes, the offset of its data, and their size in bytes; the pieces of a sparse one."""

    name: bytes
    offset: int
    size: int
    pieces: tuple[Piece, ...] | None = None


def content(file: BinaryIO, member: Member, size: int) -> bytes:
    """Return the first `size` bytes of a member; shorter where the tar is cut off."""
    if member.pieces is not None:
        return sparse.content(file, member.pieces, size)
    file.seek(member.offset)
    return file.read(size)


def member_at(file: BinaryIO, offset: int) -> Member:
    """Return the sparse member of an offset with the bit SPARSE. Raises ShardBreak where there is none."""
    found = next(iter(_Scanner(file, offset & ~SPARSE)), None)
    if found is None:
        raise Cut(f"no member at byte {offset & ~SPARSE}", None)
    return found


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


def last_names(file: BinaryIO) -> list[bytes]:
    """Return the names of the last members, by a search for headers in the last MiB: a hint, for data may look like a header."""
    size = file.seek(0, os.SEEK_END) // BLOCK * BLOCK
    file.seek(max(0, size - BUFFER))
    end = file.read(min(size, BUFFER))
    return [text(end[at : at + 100]) for at in range(0, len(end), BLOCK) if end[at + 257 : at + 262] == b"ustar"]


@dataclass
class _Scanner:
    file: BinaryIO
    at: int = 0
    end: int = 0
    path: bytes | None = None  # from a long-name or pax header, for the member after it
    size: int | None = None
    sparse: Map | None = None
    extended: bool = False
    first: int | None = None  # where the extended headers of the next member begin
    link: bytes | None = None  # what the next member links to, from such a header
    linked: dict[bytes, Member] | None = None  # regular files by name, once there was a hard link

    def __iter__(self) -> Iterator[Member]:
        self.end = self.file.seek(0, os.SEEK_END)
        ended = False
        while self.at < self.end:
            self.file.seek(self.at)
            block = self.file.read(BLOCK)
            if len(block) < BLOCK:
                known = b"\0" in block[:100] and not self.extended
                raise Cut(self._cut_header(), text(block[:100]) if known else None)
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
        if not checksum_holds(block, stored):
            message = f"wrong header checksum at byte {self.at}" if self.at else "not a tar, at byte 0"
            raise Cut(message, None if self.extended else name)
        if prefix != b"\0" and magic == b"ustar\0":
            name = text(block[345:500]) + b"/" + name
        kind, data, start = block[156], self.at + BLOCK, self.at
        size = number(digits)
        if kind not in _REGULAR or self.extended:
            name, data, size = self._unusual(block, name, size)
        if size is None or size < 0:
            raise Cut(f"impossible size at byte {self.at}, in member {shown(name)}", name)
        folder = name.endswith(b"/")
        if kind in _NO_DATA or (kind == 0 and folder):
            size = 0
        if data + size > self.end:
            known = None if kind in (_LONG_NAME, _LONG_LINK, _PAX) else name
            raise Cut(f"cut off at byte {self.end}, in member {shown(name)}", known)
        self.at = data + (size + 511 & ~511)
        if kind in _ABOUT_NEXT:
            self.first = start if self.first is None else self.first
            self._extend(kind, size, data)
            return None
        if kind in _REGULAR and self.sparse is None and not folder:
            member: Member | None = Member(name, data, size)
        else:
            member = self._special(block, Member(name, data, size), start if self.first is None else self.first)
        if self.extended:
            self.path, self.size, self.link, self.sparse, self.extended = None, None, None, None, False
        self.first = None
        return member

    def _special(self, block: bytes, stored: Member, start: int) -> Member | None:
        """Return a member that is a sparse file, or a hard link to a regular one; None for a folder and the like.

        Its headers begin at `start`.
        """
        if self.sparse is not None:
            return self._with_holes(stored, self.sparse, start)
        if block[156] != _LINK:
            return None
        if self.linked is None:
            self.linked = {}
            with suppress(Cut):  # told when it is reached
                self.linked.update((one.name, one) for one in _Scanner(self.file, linked={}))
        target = self.linked.get(self.link or text(block[157:257]))
        if target is None or target.offset & ~SPARSE > stored.offset:
            return None
        return target._replace(name=stored.name)

    def _with_holes(self, stored: Member, found: Map, start: int) -> Member:
        """Return a sparse file, given its stored data as a member."""
        try:
            skipped, spans = 0, found.spans
            if spans is None:
                skipped, spans = sparse.before_data(self.file, stored.offset, stored.size)
            pieces = sparse.pieces(found._replace(spans=spans), stored.offset + skipped, stored.size - skipped)
        except ValueError:
            raise Cut(f"impossible map of a sparse file at byte {start}, in member {shown(stored.name)}", stored.name) from None
        return Member(found.name or stored.name, start | SPARSE, found.size, pieces)

    def _unusual(self, block: bytes, name: bytes, size: int | None) -> tuple[bytes, int, int | None]:
        """Return name, place of the data, and size, of a member that has extended headers or is no plain file."""
        more = self._sparse_headers(block) if block[156] == _SPARSE else 0
        if block[156] in _ABOUT_NEXT:
            return name, self.at + BLOCK, size
        return self.path or name, self.at + BLOCK + more, size if self.size is None else self.size

    def _sparse_headers(self, block: bytes) -> int:
        more, length = block[482], 0
        numbers = [block[at : at + 12] for at in range(386, 482, 12)]
        size = number(block[483:495])
        while more:
            block = self.file.read(BLOCK)
            if len(block) < BLOCK or len(numbers) > 2 * sparse.PIECES:
                raise Cut(f"cut off at byte {self.end}, in a sparse file's map", None)
            numbers += [block[at : at + 12] for at in range(0, 504, 12)]
            more, length = block[504], length + BLOCK
        try:
            self.sparse = sparse.of_header([number(digits) for digits in numbers], size)
        except ValueError:
            raise Cut(f"impossible map of a sparse file at byte {self.at}", None) from None
        self.extended = True  # so that it is forgotten after this member
        return length

    def _extend(self, kind: int, size: int, at: int) -> None:
        """Remember the fields of a long-name or pax header for the next member."""
        if kind not in (_LONG_NAME, _LONG_LINK, _PAX):
            return
        if size > MAX_EXTENDED:
            raise Cut(f"impossible size at byte {at - BLOCK}, of a name or pax header", None)
        data = self.file.read(size)
        self.extended = True
        if kind == _LONG_NAME:
            self.path = self.path or text(data)
            return
        if kind == _LONG_LINK:
            self.link = text(data)
            return
        try:
            listed = list(pax_fields(data))
            fields, found = dict(listed), sparse.of_pax(listed)
            self.size = int(fields[b"size"]) if b"size" in fields else self.size
        except ValueError:
            raise Cut(f"broken pax header at byte {at - BLOCK}", None) from None
        self.path, self.link = fields.get(b"path") or self.path, fields.get(b"linkpath") or self.link
        self.sparse = found or self.sparse

    def _check_end(self) -> None:
        """Raise ShardBreak when anything but zeros follows the end mark: a hole must not pass for the end."""
        self.file.seek(min(self.at, self.end))
        while chunk := self.file.read(BUFFER):
            if chunk.count(0) != len(chunk):
                raise Cut(f"data after the end mark at byte {self.at}", None)
