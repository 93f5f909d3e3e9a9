"""Lines of a file, bounded in length."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 64 << 20


SAMPLE_LINES = 100


def lines_of(file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[bytes | None]:
    """Yield the lines of a file that are not blank; None for one that is longer than MAX_LINE.

    `begin` and `end`, in bytes, are where lines begin. Raises EOFError for a file that ends before `end`.
    """
    at = file.seek(begin) if begin else 0
    while end is None or at < end:
        line = file.readline(MAX_LINE)
        if not line and end is not None:
            raise EOFError(f"the file ends at byte {at}; it was longer when it was listed")
        if not line:
            return
        line, at = line if at else line.removeprefix(BOM_UTF8), at + len(line)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                at += len(rest)
            at += len(rest)
            yield None
        elif line.strip():
            yield line


def parse_line(line: bytes | None) -> dict[str, object] | None:
    """Return the JSON object of a line; None when it is not one."""
    try:
        fields = None if line is None else json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
