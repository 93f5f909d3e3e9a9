"""The fields of a tar's headers, plain and pax."""

from __future__ import annotations

import zlib
from collections.abc import Iterator


def checksum_holds(block: bytes, stored: bytes) -> bool:
    """Return whether the checksum `stored` is that of a header; some tars have sums of signed bytes."""
    try:
        said = int(stored[:6] if stored[6] == 0 else text(stored), 8)
    except ValueError:
        return False
    others = 256 - sum(stored)
    # adler32's lower half is the sum of the bytes, plus one, modulo 65521: 20 times faster than sum()
    if (said - others - (zlib.adler32(block) & 0xFFFF) + 1) % 65521 == 0:
        return True
    negative = sum(1 for byte in block[:148] + block[156:] if byte > 127)  # old tars summed signed bytes
    return said == others + sum(block) - 256 * negative


def number(raw: bytes) -> int | None:
    """Parse an octal or base-256 number; None when it is neither."""
    if raw[0] & 0x80:
        return int.from_bytes(raw, "big", signed=True) if raw[0] == 0xFF else int.from_bytes(raw[1:], "big")
    if raw[11] != 0 or 0 in raw[:11]:
        raw = b"%12s" % (text(raw).strip() or b"0")
    try:
        return int(raw[:-1] if raw[-1] == 0 else raw, 8)
    except ValueError:
        return None


def text(raw: bytes) -> bytes:
    """Return a field up to its first NUL."""
    return raw.partition(b"\0")[0]


def shown(name: bytes) -> str:
    """Return a member's name for a message."""
    return name[:200].decode(errors="replace").replace("\n", " ")


def pax_fields(data: bytes) -> Iterator[tuple[bytes, bytes]]:
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
