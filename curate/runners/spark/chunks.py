"""Many items to a task, for an engine that charges for every task: as many as fill some seconds, few at the start and at the end.

How long an item takes is known when it is done. So a task hands back what it has not begun after those seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from curate.runners.spark.child import Child

SECONDS = 4.0
"""For which a task begins items."""

MOST = 100
"""Items of a task: what Spark charges is then less than a millisecond an item."""

Chunk = list[Any]


@dataclass(frozen=True)
class Did:
    """What became of a chunk: the answers of its first items, in order; the others were not begun."""

    answers: list[Any]
    seconds: float


class Chunks:
    """Items of a stream, given out in chunks; they are read ahead as far as shows whether their end is near."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._ahead = iter(items), deque[Any]()
        self._size = 1

    def cut(self, room: int) -> Chunk:
        """Return the next chunk; of few items where no more are left than `room` chunks should share."""
        self._ahead.extend(islice(self._items, max(0, self._size * room - len(self._ahead))))
        size = min(self._size, -(-len(self._ahead) // room))
        return [self._ahead.popleft() for _ in range(size)]

    def ended(self, chunk: Chunk, did: Did) -> None:
        """Take back what was not begun, and learn from the rest; the next chunks are at most twice as large."""
        self._ahead.extendleft(reversed(chunk[len(did.answers) :]))
        each = max(did.seconds / len(did.answers), 1e-9)
        self._size = max(1, min(MOST, 2 * self._size, int(SECONDS / each)))


def serve(child: Callable[[], Child], task: bytes, chunk: Chunk, seconds: float = SECONDS) -> Did:
    """Run a pickled task on the items of a chunk, one at least, each in what `child` gives."""
    started, found = time.monotonic(), []
    for item in chunk:
        found.append(child().run(task, item))
        if time.monotonic() - started > seconds:
            break
    return Did(found, time.monotonic() - started)
