"""Sparse members: files with holes, as GNU tar stores them (`tar -S`): the old GNU headers, and pax 0.0, 0.1 and 1.0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

PIECES = 20_000
"""Pieces of one file between holes: more is an attack."""

_BLOCK = 512
_PREFIX = b"GNU.sparse."


class Piece(NamedTuple):
    """A piece of a file that is not a hole: where it is in the tar, where in the file, and its size in bytes."""

    stored: int
    offset: int
    size: int


class Map(NamedTuple):
    """What extended headers say of a sparse file: its name if they have it, its size, and the pieces' offsets and sizes.

    No `spans`: they stand before the data (pax 1.0).
    """

    name: bytes | None
    size: int
    spans: tuple[tuple[int, int], ...] | None


def of_pax(fields: Sequence[tuple[bytes, bytes]]) -> Map | None:
    """Return the map of a pax header; None where it is of no sparse file. Raises ValueError where it makes no sense."""
    found = {name.removeprefix(_PREFIX): value for name, value in fields if name.startswith(_PREFIX)}
    if not found:
        return None
    size = int(found.get(b"realsize") or found.get(b"size") or b"")
    if found.get(b"major", b"0") != b"0":
        return Map(found.get(b"name"), size, None)
    if b"map" in found:
        numbers = [int(number) for number in found[b"map"].split(b",")] if found[b"map"] else []
    else:  # 0.0: the same two fields again and again
        numbers = [int(value) for name, value in fields if name in (_PREFIX + b"offset", _PREFIX + b"numbytes")]
    return Map(found.get(b"name"), size, _pairs(numbers))


def of_header(numbers: Sequence[int | None], size: int | None) -> Map:
    """Return the map of an old GNU header, given offset and size of each piece. Raises ValueError where it makes no sense."""
    spans = [number for number in numbers if number is not None]
    if size is None or len(spans) < len(numbers):
        raise ValueError("sparse map")
    return Map(None, size, _pairs(spans))


def before_data(file: BinaryIO, at: int, stored: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the length of the map before the data at `at`, of `stored` bytes, and what it says (pax 1.0).

    Raises ValueError where it makes no sense.
    """
    file.seek(at)
    numbers: list[int] = []
    rest, length = b"", 0
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        block = file.read(_BLOCK)
        length += len(block)
        *whole, rest = (rest + block).split(b"\n")
        numbers += map(int, whole)
        if len(block) < _BLOCK or length > stored or len(rest) > _BLOCK or not numbers or not 0 <= numbers[0] <= PIECES:
            raise ValueError("sparse map")
    return length, _pairs(numbers[1 : 1 + 2 * numbers[0]])


def pieces(found: Map, at: int, stored: int) -> tuple[Piece, ...]:
    """Return the pieces of a file whose data of `stored` bytes are at `at`. Raises ValueError where the map makes no sense."""
    listed, end, place = [], 0, at
    for offset, size in found.spans or ():
        if not size:  # before a hole at the end, and what is not used of a header
            continue
        if offset < end or size < 0 or offset + size > found.size or place + size > at + stored:
            raise ValueError("sparse map")
        listed.append(Piece(place, offset, size))
        end, place = offset + size, place + size
    return tuple(listed)


def content(file: BinaryIO, some: Iterable[Piece], size: int) -> bytes:
    """Return the first `size` bytes of a sparse file; shorter where the tar is cut off."""
    data = bytearray(size)
    for piece in some:
        wanted = min(piece.size, size - piece.offset)
        if wanted <= 0:
            break
        file.seek(piece.stored)
        read = file.read(wanted)
        data[piece.offset : piece.offset + len(read)] = read
        if len(read) < wanted:
            return bytes(data[: piece.offset + len(read)])
    return bytes(data)


def _pairs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2 or len(numbers) > 2 * PIECES:
        raise ValueError("sparse map")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
