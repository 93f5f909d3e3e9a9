"""One writer for an output on an object store, where no lock ends with its process: a lease that its holder renews.

The holder of epoch n writes `.lease/n` again and again. A run that finds it unchanged for as long as four renewals
creates `.lease/n+1`, which the store grants to only one. Workers look for n+1 before they commit, so what is left of a run
that lost its lease, a driver cut off from the store or a task on a node that hangs, writes nothing more. No clocks are compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

from curate.core.errors import InUse
from curate.storage.backend import Storage

FOLDER = ".lease"

BEAT_SECONDS = 10.0
"""Between two renewals."""

_MISSED = 4  # missed renewals after which a holder is gone


def superseded(storage: Storage, epoch: int) -> bool:
    """Return whether another run took over after `epoch`."""
    return storage.read(_name(epoch + 1)) is not None


def _name(epoch: int) -> str:
    return f"{FOLDER}/{epoch:08d}"


class Lease:
    """Holds `storage` from `acquire` to the end of its block."""

    def __init__(self, storage: Storage, beat: float = BEAT_SECONDS) -> None:
        self._storage, self._beat = storage, beat
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self.epoch = 0

    def acquire(self) -> None:
        """Wait for the lease of a run that is gone, and take the next. Raises InUse when another run lives."""
        before = self._last()
        if before:
            self._wait(before)
        self.epoch = before + 1
        if not self._storage.create(_name(self.epoch), self._content()):
            raise self._taken(self.epoch)
        self._renewing.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._renewing.join()
        with suppress(OSError):  # the work is done, and a lease that is not given back runs out
            if not superseded(self._storage, self.epoch):
                self._storage.write(_name(self.epoch), json.dumps({"free": True}).encode())

    def _last(self) -> int:
        return max((int(found.name) for found in self._storage.listing(FOLDER) if found.name.isdigit()), default=0)

    def _wait(self, epoch: int) -> None:
        """Return when the holder has given back or is gone. Raises InUse as soon as it shows that it lives."""
        first = self._storage.read(_name(epoch))
        if first is None or _parsed(first).get("free"):
            return
        until = time.monotonic() + _MISSED * self._beat
        while time.monotonic() < until:
            time.sleep(self._beat / 2)
            now = self._storage.read(_name(epoch))
            if now is not None and _parsed(now).get("free"):
                return
            if now != first:
                raise self._taken(epoch)

    def _taken(self, epoch: int) -> InUse:
        holder = _parsed(self._storage.read(_name(epoch)) or b"{}").get("holder", "another run")
        return InUse(self._storage.root, holder)

    def _content(self) -> bytes:
        self._beats += 1
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        return json.dumps({"holder": holder, "token": self._token, "beat": self._beats}).encode()

    def _renew(self) -> None:
        while not self._done.wait(self._beat):
            try:
                if superseded(self._storage, self.epoch):  # every commit will say so
                    return
                self._storage.write(_name(self.epoch), self._content())
            except OSError:  # tried again at the next beat; commits check whether another run took over
                continue


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
