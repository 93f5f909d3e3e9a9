"""Limits per host: connections and request rate, shared by all worker processes of a machine where it has fcntl."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

import xxhash

from curate.fetch.policy import FetchPolicy

LONGEST = 120.0
"""Maximum seconds to wait for a host; a host with a longer Retry-After is given up."""

BUSY = 0.05
"""Seconds between attempts to get a connection while other processes hold all of a host's."""


class HostState(Protocol):
    """Where the connections and times of hosts are kept. A host is its 64-bit hash: colliding hosts share their limits."""

    def lock(self, host: int, number: int) -> bool:
        """Take connection `number` of a host; return whether it was free."""

    def unlock(self, host: int, number: int) -> None:
        """Free a connection."""

    def update(self, host: int, change: Callable[[float], float]) -> None:
        """Atomically replace the time from which the host may be requested (seconds, 0 if unknown)."""

    def close(self) -> None:
        """Release everything."""


class ProcessHostState:
    """State for a single process, where files cannot be locked: limits then hold for each process."""

    def __init__(self) -> None:
        self._held: set[tuple[int, int]] = set()
        self._due: dict[int, float] = {}
        self._guard = Lock()

    def lock(self, host: int, number: int) -> bool:
        """Take connection `number` of a host; return whether it was free."""
        with self._guard:
            if (host, number) in self._held:
                return False
            self._held.add((host, number))
            return True

    def unlock(self, host: int, number: int) -> None:
        """Free a connection."""
        with self._guard:
            self._held.discard((host, number))

    def update(self, host: int, change: Callable[[float], float]) -> None:
        """Atomically replace the time from which the host may be requested."""
        with self._guard:
            self._due[host] = change(self._due.get(host, 0.0))

    def close(self) -> None:
        """Keep the times: the next crawl of this process observes them."""


_process_state = ProcessHostState()


def _state(folder: Path | None) -> HostState:
    try:
        from curate.fetch.host_files import HostFiles
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        return _process_state
    return HostFiles.of(folder)


@dataclass(frozen=True)
class Slot:
    """Permission for one connection to a host."""

    host: str
    number: int


class HostLimits:
    """The limits as seen by one process."""

    def __init__(self, policy: FetchPolicy, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Share limits through files in `folder` (default: one per user); `clock` returns seconds equal in all processes."""
        self._per_host, self._pause = policy.per_host, 1 / policy.rate if policy.rate else 0.0
        self._clock = clock
        self._state = _state(folder)
        self._held: dict[str, set[int]] = {}

    def close(self) -> None:
        """Release everything, also the connections of a crawl that was cancelled."""
        for host, numbers in self._held.items():
            for number in numbers:
                self._state.unlock(_key(host), number)
        self._held.clear()
        self._state.close()

    def acquire(self, host: str) -> Slot | float:
        """Return a connection to a host, or the seconds after which to try again."""
        held, key = self._held.get(host, set()), _key(host)
        number = next((one for one in range(self._per_host) if one not in held and self._state.lock(key, one)), None)
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
        self._state.unlock(_key(slot.host), slot.number)
        if not held:
            del self._held[slot.host]

    def pace(self, host: str) -> float:
        """Return 0 and reserve the next request if a host may be requested now, else return the seconds to wait."""
        if not self._pause:  # only what hosts demand
            return self._delay(host, lambda due, now: due)
        return self._delay(host, lambda due, now: due if due > now else now + self._pause)

    def postpone(self, host: str, seconds: float) -> None:
        """Send no request to a host for some seconds (at most LONGEST), from any process."""
        self._delay(host, lambda due, now: max(due, now + min(seconds, LONGEST)))

    def _delay(self, host: str, change: Callable[[float, float], float]) -> float:
        """Change a host's time; return the delay in seconds that held before."""
        delay = 0.0

        def changed(due: float) -> float:
            nonlocal delay
            now = self._clock()
            due = due if due <= now + 2 * LONGEST else 0.0  # the clock was set back
            delay = max(0.0, due - now)
            return change(due, now)

        self._state.update(_key(host), changed)
        return delay


def _key(host: str) -> int:
    return xxhash.xxh3_64_intdigest(host.encode())
