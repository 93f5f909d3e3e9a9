"""A lock on an open file, held until the file is closed or the process ends, on POSIX and on Windows."""

from __future__ import annotations

import importlib
import time
from typing import IO, Any

_PLACE = 1 << 30  # of the byte that is locked where locks are mandatory: nobody reads or writes there
_POLL_SECONDS = 0.05


def lock(file: IO[Any]) -> None:
    """Wait until no other process holds the lock, and take it."""
    while not try_lock(file):
        time.sleep(_POLL_SECONDS)


def try_lock(file: IO[Any]) -> bool:
    """Take the lock and return True, or return False if another process holds it. Raises OSError where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return _locked_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_on_windows(file: IO[Any]) -> bool:
    msvcrt: Any = importlib.import_module("msvcrt")
    place = file.tell()
    file.seek(_PLACE)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    finally:
        file.seek(place)
    return True
