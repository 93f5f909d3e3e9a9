"""Where a task's time goes: seconds by activity, for the breakdown of a run and the rates of a dry run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Activities:
    """Adds up seconds by name. Nested activities count for the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows: dict[str, int] = {}
        self._open: list[tuple[str, float]] = []

    @contextmanager
    def doing(self, name: str, rows: int = 0) -> Iterator[None]:
        """Count the time of the block for `name`, and `rows` as worked on by it."""
        now = time.perf_counter()
        if self._open:
            self._add(self._open[-1], now)
        self._open.append((name, now))
        try:
            yield
        finally:
            now = time.perf_counter()
            self._add(self._open.pop(), now)
            if self._open:
                self._open[-1] = (self._open[-1][0], now)
            self.rows[name] = self.rows.get(name, 0) + rows

    def _add(self, opened: tuple[str, float], now: float) -> None:
        name, since = opened
        self.seconds[name] = self.seconds.get(name, 0.0) + now - since
