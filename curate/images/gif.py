"""GIF block structure: enough to count frames without decoding."""

from __future__ import annotations


def skip_sub_blocks(data: bytes, at: int) -> int:
    """Return the position after the chain of sub-blocks at `at`. Raises IndexError when the data end first."""
    while data[at]:
        at += 1 + data[at]
    return at + 1


def colour_table_bytes(flags: int) -> int:
    """Return the size in bytes of the colour table announced by a flags byte."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def count_frames(data: bytes, limit: int) -> tuple[int, bool]:
    """Return the number of complete frames, counting up to `limit`, and whether the trailer was reached."""
    at, frames = 13 + colour_table_bytes(data[10]), 0
    try:
        while frames < limit:
            if data[at] == 0x2C:
                at = skip_sub_blocks(data, at + 11 + colour_table_bytes(data[at + 9]))
                frames += 1
            elif data[at] == 0x21:
                at = skip_sub_blocks(data, at + 2)
            else:
                return frames, data[at] == 0x3B
    except IndexError:
        return frames, False
    return frames, False
