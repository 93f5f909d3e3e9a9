"""Where a task's time goes: seconds by activity, for the breakdown of a run and the rates of a dry run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Activities:
    """Adds up seconds by name, over all threads. Nested activities count for the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows: dict[str, int] = {}
        self._mine = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def doing(self, name: str, rows: int = 0) -> Iterator[None]:
        """Count the time of the block for `name`, and `rows` as worked on by it."""
        opened: list[tuple[str, float]] = self._mine.__dict__.setdefault("opened", [])
        now = time.perf_counter()
        if opened:
            self._add(opened[-1], now)
        opened.append((name, now))
        try:
            yield
        finally:
            now = time.perf_counter()
            self._add(opened.pop(), now)
            if opened:
                opened[-1] = (opened[-1][0], now)
            with self._lock:
                self.rows[name] = self.rows.get(name, 0) + rows

    def _add(self, opened: tuple[str, float], now: float) -> None:
        name, since = opened
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
