"""Notes which row is inside native code, so that a crash or a hang names its culprit.

A decoder that segfaults or never returns takes its process with it. Before each row enters one, the worker writes the
row's number into a small memory-mapped file and arms a timer whose signal the kernel delivers even when the code holds
the interpreter lock; after the death the file says which row it was.
"""

from __future__ import annotations

import mmap
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROW_SECONDS = 30.0
"""A single image that takes longer to decode than this is recorded as `timeout`."""

_journal: mmap.mmap | None = None
_seconds = ROW_SECONDS


@contextmanager
def journal(path: Path, seconds: float = ROW_SECONDS) -> Iterator[None]:
    """Keep the journal of the current task in `path`, an 8-byte file; gone when the task ends alive.

    A row that takes longer than `seconds` ends the process by SIGALRM.
    """
    global _journal, _seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<q", -1))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as view:
        _journal, _seconds = view, seconds
        try:
            yield
        finally:
            _journal = None
    path.unlink()


@contextmanager
def row(number: int) -> Iterator[None]:
    """Note that `number` is being decoded; the process dies by SIGALRM when its time is over."""
    if _journal is None:  # outside a task (a test, a calibration): nobody would read it
        yield
        return
    _journal[:] = struct.pack("<q", number)
    signal.setitimer(signal.ITIMER_REAL, _seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _journal[:] = struct.pack("<q", -1)


def culprit(path: Path) -> int | None:
    """Return the row that a dead task was decoding, or None when it died elsewhere or never began."""
    try:
        number = int(struct.unpack("<q", path.read_bytes())[0])
    except (FileNotFoundError, struct.error):
        return None
    return None if number < 0 else number
