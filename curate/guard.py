"""Notes which rows are inside native code, so that a crash or a hang names its culprit.

A decoder that segfaults or never returns takes its process with it. Before a row enters one, its thread writes the row's
number into a slot of a small memory-mapped file, and the process's timer is set for the row that is longest in: the kernel
delivers its signal even when native code holds the interpreter lock. After the death the file says which rows were in; one
of them is the culprit.
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
from typing import NamedTuple

ROW_SECONDS = 30.0
"""A single image that takes longer to decode than this is recorded as `timeout`."""

_SLOT = struct.Struct("<qq")  # row, side
_NOBODY = (-1, 0)
_AT_ONCE = 1e-6  # a timer of 0 seconds would be none


class Inside(NamedTuple):
    """A row that was in native code, and the side of the picture that was made of it for a model; 0: none was."""

    row: int
    side: int


class _Journal:
    """The rows in native code, each in a slot of a mapped file, and the time by which the first of them must be out."""

    def __init__(self, view: mmap.mmap, seconds: float) -> None:
        self._view, self._seconds = view, seconds
        self._free = list(range(len(view) // _SLOT.size))
        self._due: dict[int, float] = {}  # by slot; all have the same time, so the first to enter is the first that is due
        self._lock = Lock()

    def enter(self, row: int, side: int) -> int:
        with self._lock:
            slot = self._free.pop()
            _SLOT.pack_into(self._view, slot * _SLOT.size, row, side)
            if not self._due:
                signal.setitimer(signal.ITIMER_REAL, self._seconds)
            self._due[slot] = time.monotonic() + self._seconds
        return slot

    def leave(self, slot: int) -> None:
        with self._lock:
            first = next(iter(self._due)) == slot
            del self._due[slot]
            if first:
                due = next(iter(self._due.values()), None)
                left = 0.0 if due is None else max(due - time.monotonic(), _AT_ONCE)
                signal.setitimer(signal.ITIMER_REAL, left)
            _SLOT.pack_into(self._view, slot * _SLOT.size, *_NOBODY)
            self._free.append(slot)


_journal: _Journal | None = None


@contextmanager
def journal(path: Path, seconds: float = ROW_SECONDS, threads: int = 1) -> Iterator[None]:
    """Keep the journal of the current task in `path`; gone when the task ends alive.

    At most `threads` rows may be in native code at once. One that takes longer than `seconds` ends the process by SIGALRM.
    """
    global _journal
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_SLOT.pack(*_NOBODY) * threads)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), threads * _SLOT.size) as view:
        _journal = _Journal(view, seconds)
        try:
            yield
        finally:
            _journal = None
    path.unlink()


@contextmanager
def row(number: int, side: int = 0) -> Iterator[None]:
    """Note that `number` is in a decoder, for a picture of `side` if a model wants one; may be entered by several threads.

    The process dies by SIGALRM when the row's time is over.
    """
    held = _journal
    if held is None:  # outside a task (a test, a calibration): nobody would read it
        yield
        return
    slot = held.enter(number, side)
    try:
        yield
    finally:
        held.leave(slot)


def inside(path: Path) -> list[Inside]:
    """Return the rows that a dead task was decoding; none when it died elsewhere or never began."""
    try:
        found = [Inside(*slot) for slot in _SLOT.iter_unpack(path.read_bytes())]
    except (FileNotFoundError, struct.error):
        return []
    return [entry for entry in found if entry.row >= 0]
