"""The state of hosts in two files that all processes of a user share.

A connection is a lock on one byte, at the host's hash: the kernel frees it when the process ends, for whatever reason. The time
from which a host may be requested is a number in the second file, so that a Retry-After received by one worker holds for all.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from curate.storage.local_copies import own_folder

_TIME = struct.Struct("<d")
_TIMES = 1 << 24
_SLOTS = 1 << 10
_HOSTS = 1 << 50


class HostFiles:
    """See curate.fetch.host_limits.HostState."""

    def __init__(self, folder: Path) -> None:
        self._slots = _opened(folder / "connections")
        self._times = _opened(folder / "times")

    @classmethod
    def of(cls, folder: Path | None) -> HostFiles:
        """Open the files in a folder, by default the folder of this user."""
        return cls(folder or own_folder("hosts"))

    def close(self) -> None:
        """Close the files, which frees all connections."""
        os.close(self._slots)
        os.close(self._times)

    def lock(self, host: int, number: int) -> bool:
        """Take connection `number` of a host; return whether it was free."""
        try:
            fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, host % _HOSTS * _SLOTS + number)
        except OSError:
            return False
        return True

    def unlock(self, host: int, number: int) -> None:
        """Free a connection."""
        fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, host % _HOSTS * _SLOTS + number)

    def update(self, host: int, change: Callable[[float], float]) -> None:
        """Atomically replace the time from which the host may be requested."""
        place = host % _TIMES * _TIME.size
        fcntl.lockf(self._times, fcntl.LOCK_EX, _TIME.size, place)
        try:
            found = os.pread(self._times, _TIME.size, place)
            due = _TIME.unpack(found)[0] if len(found) == _TIME.size else 0.0
            if (changed := change(due)) != due:
                os.pwrite(self._times, _TIME.pack(changed), place)
        finally:
            fcntl.lockf(self._times, fcntl.LOCK_UN, _TIME.size, place)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
