"""Limits the time that a row spends in native code, and records which row is there, so that a crash or hang can be blamed.

A decoder that segfaults or never returns takes its process with it. Before a row enters one, a timer is set for the row that
has been inside longest. The timer works even when native code holds the interpreter lock: it is the process's interval timer,
whose signal the kernel delivers, or where there is none (Windows) faulthandler's thread, which needs no interpreter. While the
row that killed an earlier process is searched for (see curate.passes.isolate), its number is in a small memory-mapped file.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TextIO

ROW_SECONDS = 30.0
"""A single image that takes longer to decode than this is recorded as `timeout`."""

_TIMER = hasattr(signal, "setitimer")

EXITCODE = -signal.SIGALRM if _TIMER else 1
"""Exit code, as multiprocessing reports it, of a process that the watchdog ended."""

_ROW = struct.Struct("<q")
_NOBODY = -1
_AT_ONCE = 1e-6  # a timer of 0 seconds would be off


def _arm(seconds: float) -> None:
    """End the process after `seconds` unless called again before."""
    if _TIMER:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())


def _disarm() -> None:
    if _TIMER:
        signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        faulthandler.cancel_dump_traceback_later()


@cache
def _nowhere() -> TextIO:
    """Return a file for the traceback, which nobody reads; faulthandler needs it open for as long as the process lives."""
    return open(os.devnull, "w", encoding="utf-8")


class _Watch:
    """The rows in native code and their deadlines; all rows have the same time."""

    def __init__(self, seconds: float, note: mmap.mmap | None = None) -> None:
        self._seconds, self._note = seconds, note
        self._due: dict[object, float] = {}  # in order of entering, which is the order of deadlines
        self._lock = Lock()

    def enter(self, row: int) -> object:
        entry = object()
        with self._lock:
            if self._note is not None:
                _ROW.pack_into(self._note, 0, row)
            if not self._due:
                _arm(self._seconds)
            self._due[entry] = time.monotonic() + self._seconds
        return entry

    def leave(self, entry: object) -> None:
        with self._lock:
            first = next(iter(self._due)) is entry
            del self._due[entry]
            if first:
                due = next(iter(self._due.values()), None)
                if due is None:
                    _disarm()
                else:
                    _arm(max(due - time.monotonic(), _AT_ONCE))
            if self._note is not None:
                _ROW.pack_into(self._note, 0, _NOBODY)


_watch: _Watch | None = None


@contextmanager
def watching(seconds: float = ROW_SECONDS) -> Iterator[None]:
    """Limit the time of rows for the current task: one that takes longer than `seconds` ends the process."""
    global _watch
    _watch = _Watch(seconds)
    try:
        yield
    finally:
        _watch = None


@contextmanager
def noting(path: Path, seconds: float = ROW_SECONDS) -> Iterator[None]:
    """Limit the time of rows, and record in `path` which one is in native code; for a single thread."""
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
    """Mark row `number` as being in a decoder, in the block; several threads may do so.

    The process ends with EXITCODE when the row's time is up.
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
    """Return the row that a dead process was decoding; None if it died elsewhere, or never started."""
    try:
        [found] = _ROW.unpack(path.read_bytes())
    except (FileNotFoundError, struct.error):
        return None
    return None if found == _NOBODY else int(found)
