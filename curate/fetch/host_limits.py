"""How often and by how many connections a host is asked, by all worker processes of a machine together.

A connection is a lock on one byte of a file, whose place is the host's hash: it is gone with the process, however that ends.
The time from which a host may be asked again is a number in a second file, so that a Retry-After which one worker was told
holds for all of them. Two hosts whose hashes collide share their time, which only asks more slowly.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from curate.fetch.policy import FetchPolicy
from curate.storage.local_copies import own_folder

LONGEST = 120.0
"""Seconds that a Retry-After may ask for; what asks for more is not waited for."""

BUSY = 0.05
"""Seconds after which a host is tried again whose connections other processes have."""

_TIME = struct.Struct("<d")
_PLACES = 1 << 24
_SLOTS = 1 << 10
_HOSTS = 1 << 50


@dataclass(frozen=True)
class Slot:
    """A connection that may be made."""

    host: str
    number: int


class Hosts:
    """The limits, seen from one process."""

    def __init__(self, policy: FetchPolicy, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Take the shared files of `folder` (default: this user's); `clock` gives seconds that all processes agree on."""
        place = folder or own_folder("hosts")
        self._per_host, self._pause = policy.per_host, 1 / policy.rate if policy.rate else 0.0
        self._clock = clock
        self._slots = _opened(place / "connections")
        self._times = _opened(place / "times")
        self._held: dict[str, set[int]] = {}

    def close(self) -> None:
        """Give everything back."""
        os.close(self._slots)
        os.close(self._times)

    def acquire(self, host: str) -> Slot | float:
        """Return a connection to a host, or the seconds after which to ask again."""
        held = self._held.get(host, set())
        number = next((one for one in range(self._per_host) if one not in held and self._lock(host, one)), None)
        if number is None:
            return BUSY
        self._held.setdefault(host, held).add(number)
        slot = Slot(host, number)
        if wait := self.pace(host):
            self.release(slot)
            return wait
        return slot

    def release(self, slot: Slot) -> None:
        """Give a connection back."""
        held = self._held[slot.host]
        held.discard(slot.number)
        fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _place(slot.host) % _HOSTS * _SLOTS + slot.number)
        if not held:
            del self._held[slot.host]

    def pace(self, host: str) -> float:
        """Take the next time at which a host may be asked, if that is now, and return 0; else the seconds until then."""
        if not self._pause:  # only what hosts ask for
            return self._when(host, lambda due, now: due)
        return self._when(host, lambda due, now: due if due > now else now + self._pause)

    def postpone(self, host: str, seconds: float) -> None:
        """Do not ask a host for some seconds, in any process."""
        self._when(host, lambda due, now: max(due, now + min(seconds, LONGEST)))

    def _when(self, host: str, change: Callable[[float, float], float]) -> float:
        """Change a host's time and return how long it was to wait before."""
        place = _place(host) % _PLACES * _TIME.size
        fcntl.lockf(self._times, fcntl.LOCK_EX, _TIME.size, place)
        try:
            found = os.pread(self._times, _TIME.size, place)
            now = self._clock()
            due = _TIME.unpack(found)[0] if len(found) == _TIME.size else 0.0
            due = due if due <= now + 2 * LONGEST else 0.0  # a clock that was set back
            if (changed := change(due, now)) != due:
                os.pwrite(self._times, _TIME.pack(changed), place)
        finally:
            fcntl.lockf(self._times, fcntl.LOCK_UN, _TIME.size, place)
        return max(0.0, due - now)

    def _lock(self, host: str, number: int) -> bool:
        try:
            fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(host) % _HOSTS * _SLOTS + number)
        except OSError:
            return False
        return True


def _place(host: str) -> int:
    return xxhash.xxh3_64_intdigest(host.encode())


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
