"""Bounds the time of a row inside native code, and notes which one is in, so that a crash or a hang names its culprit.

A decoder that segfaults or never returns takes its process with it. Before a row enters one, the process's timer is set for
the row that is longest in: the kernel delivers its signal even when native code holds the interpreter lock. Where the
culprit of an earlier death is sought (see curate.passes.isolate), its number stands in a small memory-mapped file meanwhile.
"""

from __future__ import annotations

import mmap
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

ROW_SECONDS = 30.0
"""A single image that takes longer to decode than this is recorded as `timeout`."""

_ROW = struct.Struct("<q")
_NOBODY = -1
_AT_ONCE = 1e-6  # a timer of 0 seconds would be none


class _Watch:
    """The rows in native code, and the time by which the first of them must be out; all have the same time."""

    def __init__(self, seconds: float, note: mmap.mmap | None = None) -> None:
        self._seconds, self._note = seconds, note
        self._due: dict[object, float] = {}  # in the order of entering: the first to enter is the first that is due
        self._lock = Lock()

    def enter(self, row: int) -> object:
        entry = object()
        with self._lock:
            if self._note is not None:
                _ROW.pack_into(self._note, 0, row)
            if not self._due:
                signal.setitimer(signal.ITIMER_REAL, self._seconds)
            self._due[entry] = time.monotonic() + self._seconds
        return entry

    def leave(self, entry: object) -> None:
        with self._lock:
            first = next(iter(self._due)) is entry
            del self._due[entry]
            if first:
                due = next(iter(self._due.values()), None)
                left = 0.0 if due is None else max(due - time.monotonic(), _AT_ONCE)
                signal.setitimer(signal.ITIMER_REAL, left)
            if self._note is not None:
                _ROW.pack_into(self._note, 0, _NOBODY)


_watch: _Watch | None = None


@contextmanager
def watching(seconds: float = ROW_SECONDS) -> Iterator[None]:
    """Bound the time of rows for the current task: one that takes longer than `seconds` ends the process by SIGALRM."""
    global _watch
    _watch = _Watch(seconds)
    try:
        yield
    finally:
        _watch = None


@contextmanager
def noting(path: Path, seconds: float = ROW_SECONDS) -> Iterator[None]:
    """Bound the time of rows, and keep the one that is in native code in `path`: of one thread only."""
    global _watch
    path.write_bytes(_ROW.pack(_NOBODY))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), _ROW.size) as view:
        _watch = _Watch(seconds, view)
        try:
            yield
        finally:
            _watch = None


@contextmanager
def row(number: int) -> Iterator[None]:
    """Say that row `number` is in a decoder; may be entered by several threads.

    The process dies by SIGALRM when the row's time is over.
    """
    held = _watch
    if held is None:  # outside a task (a test, a calibration)
        yield
        return
    entry = held.enter(number)
    try:
        yield
    finally:
        held.leave(entry)


def inside(path: Path) -> int | None:
    """Return the row that a dead process was decoding; None when it died elsewhere or never began."""
    try:
        [found] = _ROW.unpack(path.read_bytes())
    except (FileNotFoundError, struct.error):
        return None
    return None if found == _NOBODY else int(found)
