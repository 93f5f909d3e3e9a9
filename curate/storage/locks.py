"""Locks on open files that end with their process, on every system that has them: flock, or Windows' byte locks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from curate.core.errors import OutputError

_PLACE = 1 << 30  # of the byte that Windows locks: nobody can read a locked byte, and the file names its holder
_TRIED_AGAIN = 36  # Windows waits ten seconds for a lock


@contextmanager
def locked(file: IO[Any], *, wait: bool) -> Iterator[None]:
    """Hold a lock on an open file for the block; whoever locks the same file waits, or with `wait` false is refused.

    Raises BlockingIOError when another process holds it, OutputError where the system has no such locks.
    """
    if sys.platform != "win32" and (fcntl := _module("fcntl")) is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield  # closing the file unlocks it
        return
    msvcrt = _module("msvcrt")
    if msvcrt is None:
        raise OutputError(f"{file.name} cannot be locked: Python has neither fcntl nor msvcrt on this system")
    left = _TRIED_AGAIN if wait else 0
    while not _byte(msvcrt.locking, file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK):
        if left == 0:
            raise BlockingIOError(f"{file.name} is locked by another process")
        left -= 1
    try:
        yield
    finally:
        _byte(msvcrt.locking, file, msvcrt.LK_UNLCK)


def _byte(locking: Callable[[int, int, int], None], file: IO[Any], mode: int) -> bool:
    """Lock or unlock the byte; return whether that worked. The file's position stays."""
    descriptor = file.fileno()
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _PLACE, os.SEEK_SET)
    try:
        locking(descriptor, mode, 1)
    except OSError:
        return False
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
    return True


def _module(name: str) -> Any | None:
    """Return a module that only some systems have."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None
