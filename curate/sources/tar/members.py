"""WebDataset tars: a scanner of 512-byte headers, because Python's tarfile takes 80 us for a pair.

Reads v7, ustar, GNU (long names, base-256 sizes) and pax (path, size). A record is a run of members with one key: the
path up to the first dot of its last part. Knows nothing of pixels.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import xxhash

from curate.core.contracts import Batch, Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources.records import IMAGE_TYPES, MAX_IMAGE, MAX_TEXT, UNSAFE_KEY, Record, batches, decode, first, join
from curate.sources.source import OpenShard, Source, shard_of
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

BLOCK = 512
BUFFER = 1 << 20
MAX_JSON = 1 << 20
MAX_EXTENDED = 1 << 20  # a long name or pax header above this is an attack
KEYS_REMEMBERED = 2_000_000  # about 140 MB; a repeated key is not noticed past so many records
CAPTIONS = ("caption", "text", "alt", "TEXT", "alt_text", "title")
URLS = ("url", "URL", "image_url")

_ZERO = bytes(BLOCK)
_ROLES = {name.encode(): "image" for name in IMAGE_TYPES} | {b"txt": "text", b"json": "json"}
_BOUNDS = {"image": MAX_IMAGE, "text": MAX_TEXT * 4 + 4, "json": MAX_JSON}
_UNSAFE = re.compile(UNSAFE_KEY)
_HEADER = struct.Struct("100s24x12s12x8s1x100x6s82xc166x")  # name, size, checksum, magic, first byte of the prefix
_REGULAR, _NO_DATA, _SPARSE = b"0\x007", b"123456", ord("S")
_LONG_NAME, _PAX = ord("L"), ord("x")
_ABOUT_NEXT = b"LxKg"  # headers that are no members: of a long name, pax, of a long link, pax for all


class Member(NamedTuple):
    """A regular file in a tar: its name as bytes, where its data begin, and how many bytes they are."""

    name: bytes
    offset: int
    size: int


class _Cut(ShardBreak):
    """A break, and the name of the member that it hit; None when the name is not known."""

    def __init__(self, message: str, name: bytes | None) -> None:
        super().__init__(message)
        self.name = name

    def hits(self, key: bytes) -> bool:
        """Say whether the broken member may have belonged to the record `key`."""
        if self.name is None or self.name.startswith(b"././@") or b"PaxHeader" in self.name:
            return True
        # only the last parts are compared: a broken header may lack the folder, which ustar keeps in another field
        return self.name.rpartition(b"/")[2].startswith(key.rpartition(b"/")[2] + b".")


@dataclass
class TarShard:
    """A tar that is open for reading: records from a copy on this disk, images from wherever the tar is."""

    shard: Shard
    file: InputFile

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last whole record when the tar is damaged."""
        with open(self.file.path(), "rb", buffering=BUFFER) as file:
            yield from batches(islice(records(file), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the bytes of `rows` (columns offset, bytes), each read at its offset; None where either is null."""
        yield from self.file.pieces(map(_place, rows.column("offset").to_pylist(), rows.column("bytes").to_pylist()))


def _place(offset: int | None, size: int | None) -> tuple[int, int] | None:
    if offset is None or size is None or offset < 0 or not 0 <= size <= MAX_IMAGE:
        return None
    return offset, size


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of a tar, with `file` standing at the member's data.

    Raises ShardBreak where a header's checksum is wrong, a size makes no sense, or the file ends too early.
    """
    return iter(_Scanner(file))


@dataclass
class _Scanner:
    file: BinaryIO
    at: int = 0
    end: int = 0
    path: bytes | None = None  # what a long-name or pax header says of the member after it
    size: int | None = None
    sparse: bool = False
    extended: bool = False

    def __iter__(self) -> Iterator[Member]:
        self.end = self.file.seek(0, os.SEEK_END)
        while self.at < self.end:
            self.file.seek(self.at)
            block = self.file.read(BLOCK)
            if len(block) < BLOCK:
                known = b"\0" in block[:100] and not self.extended
                raise _Cut(self._cut_header(), _text(block[:100]) if known else None)
            if block[0] == 0 and block == _ZERO:
                break
            member = self._member(block)
            if member is not None:
                yield member
        if self.extended or self.at > self.end:
            raise _Cut(f"cut off at byte {self.end}, after a member or before what its header announces", None)
        self._check_end()

    def _cut_header(self) -> str:
        return f"cut off at byte {self.end}, in a header" if self.at else "not a tar, at byte 0"

    def _member(self, block: bytes) -> Member | None:
        """Step over the header in `block` and its data; return the member when it is a regular file."""
        name, digits, stored, magic, prefix = _HEADER.unpack(block)
        name = name.partition(b"\0")[0]
        if not _checksum_holds(block, stored):
            message = f"wrong header checksum at byte {self.at}" if self.at else "not a tar, at byte 0"
            raise _Cut(message, None if self.extended else name)
        if prefix != b"\0" and magic == b"ustar\0":
            name = _text(block[345:500]) + b"/" + name
        kind, data = block[156], self.at + BLOCK
        size = _number(digits)
        if kind not in _REGULAR or self.extended:
            name, data, size = self._unusual(block, name, size)
        if size is None or size < 0:
            raise _Cut(f"impossible size at byte {self.at}, in member {_shown(name)}", name)
        folder = name.endswith(b"/")
        if kind in _NO_DATA or (kind == 0 and folder):
            size = 0
        if data + size > self.end:
            known = None if kind in (_LONG_NAME, _PAX) else name
            raise _Cut(f"cut off at byte {self.end}, in member {_shown(name)}", known)
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
                raise _Cut(f"cut off at byte {self.end}, in a sparse file's map", None)
            more, length = block[504], length + BLOCK
        return length

    def _extend(self, kind: int, size: int, at: int) -> None:
        """Remember what a long-name or pax header says of the next member."""
        if kind not in (_LONG_NAME, _PAX):
            return
        if size > MAX_EXTENDED:
            raise _Cut(f"impossible size at byte {at - BLOCK}, of a name or pax header", None)
        data = self.file.read(size)
        self.extended = True
        if kind == _LONG_NAME:
            self.path = self.path or _text(data)
            return
        try:
            fields = dict(_pax(data))
            self.size = int(fields[b"size"]) if b"size" in fields else self.size
        except ValueError:
            raise _Cut(f"broken pax header at byte {at - BLOCK}", None) from None
        self.path = fields.get(b"path") or self.path
        self.sparse = self.sparse or any(name.startswith(b"GNU.sparse.") for name in fields)

    def _check_end(self) -> None:
        """Raise ShardBreak when anything but zeros follows the end mark: else a hole would pass for the end."""
        self.file.seek(min(self.at, self.end))
        while chunk := self.file.read(BUFFER):
            if chunk.count(0) != len(chunk):
                raise _Cut(f"data after the end mark at byte {self.at}", None)


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


def _shown(name: bytes) -> str:
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


class _Group:
    """The members of one record so far. Not a dataclass: a million are made, and slots halve their cost."""

    __slots__ = ("codes", "extensions", "fields", "has_image", "image", "key", "offset", "text", "text_codes")

    def __init__(self, key: bytes, codes: list[str]) -> None:
        self.key = key
        self.codes = codes
        self.extensions: set[bytes] = set()
        self.has_image = False
        self.image: bytes | None = None
        self.offset: int | None = None
        self.text: str | None = None
        self.text_codes: list[str] = []
        self.fields: dict[str, object] = {}

    def add(self, role: str, member: Member, file: BinaryIO) -> None:
        """Read a member's data. Raises ShardBreak when the file ends before they do."""
        name, offset, size = member
        if role == "image":
            self.has_image = True
        if size > _BOUNDS[role]:
            if role != "text":
                self.codes.append("image_too_large" if role == "image" else "bad_json")
                return
            size = _BOUNDS[role]
        data = file.read(size)
        if len(data) < size:
            raise _Cut(f"cut off while it was read, in member {_shown(name)}", name)
        if role == "image":
            self.image, self.offset = data, offset
        elif role == "json":
            self._parse(data)
        elif self.text is None:
            self.text = decode(data, self.text_codes)

    def _parse(self, data: bytes) -> None:
        try:
            fields = json.loads(data.decode() if data[:1] == b"{" else data)  # else json guesses the encoding, slowly
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            self.fields = {**fields, **self.fields} if self.fields else fields
        else:
            self.codes.append("bad_json")

    def record(self) -> Record:
        """Return the record that the members make."""
        codes = self.codes
        text = self.text if self.text is not None else first(self.fields, CAPTIONS, self.text_codes)
        if not self.has_image:
            codes.append("missing_image")
        if text is None:
            codes.append("missing_text")
        key = self.key.decode(errors="replace")
        if not key.isascii() and key.encode() != self.key:
            codes.append("key_not_utf8")
        if _UNSAFE.search(key):
            codes.append("unsafe_key")
        codes += self.text_codes
        return Record(key, first(self.fields, URLS), text, join(codes) if codes else None, self.image, self.offset)


def records(file: BinaryIO) -> Iterator[Record]:
    """Yield the records of a tar. Raises ShardBreak after the last record that is surely whole."""
    group: _Group | None = None
    seen: set[int] = set()
    try:
        for member in members(file):
            folder, slash, base = member.name.rpartition(b"/")
            stem, _, extension = base.partition(b".")
            role = _ROLES.get(extension.rpartition(b".")[2].lower())
            if not stem or role is None:
                continue
            key = folder + slash + stem
            again = group is not None and key == group.key and role == "image" and group.has_image
            if group is None or key != group.key or again or extension in group.extensions:
                if group is not None:
                    yield group.record()
                group = _Group(key, ["second_image"] if again else _repeated(key, seen))
            group.extensions.add(extension)
            group.add(role, member, file)
    except _Cut as cut:
        if group is not None and not cut.hits(group.key):
            yield group.record()
        raise ShardBreak(str(cut)) from None
    if group is not None:
        yield group.record()


def _repeated(key: bytes, seen: set[int]) -> list[str]:
    digest = xxhash.xxh3_64_intdigest(key)
    if digest in seen:
        return ["duplicate_key"]
    if len(seen) < KEYS_REMEMBERED:
        seen.add(digest)
    return []


PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    if entry.url.lower().endswith(PACKED):
        raise InputError(f"{entry.url}: compressed tars cannot be read at random; unpack it first (gunzip, zstd -d)")
    return [shard_of(entry, SOURCE.kind)]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url) as file:
        yield TarShard(shard, file)


SOURCE = Source("tar", (".tar", *PACKED), _open, _list)
"""WebDataset tars."""
