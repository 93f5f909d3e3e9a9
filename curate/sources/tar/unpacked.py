"""Tars that are packed, known by their first bytes whatever their name: unpacked to this disk while a task has them open."""

from __future__ import annotations

import lzma
import zlib
from typing import BinaryIO

import pyarrow as pa

from curate.sources.packed import unpacked

SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")

SPARE, RATIO = 1 << 30, 50
"""Bytes that every packed tar may unpack to, and further ones for each of its own: what is beyond is a bomb."""

_CHUNK = 1 << 20
_SIGNS = {b"\x1f\x8b\x08": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}


def packing(path: str) -> str | None:
    """Return how a file is packed, as the suffix of such files; None for one that is not."""
    with open(path, "rb") as file:
        head = file.read(10)
    found = next((suffix for sign, suffix in _SIGNS.items() if head.startswith(sign)), None)
    return None if found == ".bz2" and head[4:] not in (b"1AY&SY", b"\x17rE8P\x90") else found  # a member named BZh


def unpack(path: str, suffix: str, size: int, target: BinaryIO) -> str | None:
    """Write what a packed file of `size` bytes holds to `target`; return what is wrong with it, None when nothing is."""
    bound, done = SPARE + RATIO * size, 0
    with unpacked(suffix, lambda: open(path, "rb")) as file:
        while True:
            try:
                chunk = file.read1(_CHUNK)  # type: ignore[attr-defined]
            except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                return f"{suffix} data is damaged or cut off: {str(error)[:100] or type(error).__name__}".replace("\n", " ")
            if not chunk:
                return None
            done += len(chunk)
            if done > bound:
                return f"unpacks to more than {bound} bytes"
            target.write(chunk)
