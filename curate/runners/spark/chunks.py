"""Chunks: the items of one Spark task, as many as take some seconds, since Spark charges for every task.

How long an item takes is only known afterwards, so a task begins items for SECONDS and hands the others back.

Spark delivers answers when a job ends, so those of a chunk wait for its slowest item, and on more than 32 cores for the other
chunks of its job. That is accepted, because little waits: a chunk begins no item after SECONDS, so at most SECONDS of work per
core waits, and the items have committed that work to storage. Only progress and retries come later. Where items are slow as a
rule, each is alone in its chunk. Any other channel to the driver would need a port that clusters do not open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from curate.core.contracts import TaskDied
from curate.runners.spark.child import Child

SECONDS = 4.0
"""How long a Spark task begins items."""

MOST = 100
"""Items of a chunk: what Spark charges is then less than a millisecond per item."""

Chunk = list[Any]


@dataclass(frozen=True)
class Done:
    """The result of a chunk: the answers of its first items, in order; the others were not begun."""

    answers: list[Any]
    seconds: float

    def named(self, chunk: Chunk) -> list[Any]:
        """Return the answers, with the items in those that say how an item died."""
        pairs = zip(chunk, self.answers, strict=False)
        return [TaskDied(item, one.reason, one.exitcode, one.error) if isinstance(one, TaskDied) else one for item, one in pairs]


class Chunks:
    """Cuts a stream of items into chunks; items are read ahead just far enough to see whether the stream is about to end."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._ahead = iter(items), deque[Any]()
        self._size = 1

    def cut(self, room: int) -> Chunk:
        """Return the next chunk; a smaller one near the end, so that `room` chunks share the last items."""
        self._ahead.extend(islice(self._items, max(0, self._size * room - len(self._ahead))))
        size = min(self._size, -(-len(self._ahead) // room))
        return [self._ahead.popleft() for _ in range(size)]

    def ended(self, chunk: Chunk, done: Done) -> None:
        """Take back what was not begun, and adapt the size of the next chunks: at most twice the size before."""
        self._ahead.extendleft(reversed(chunk[len(done.answers) :]))
        each = max(done.seconds / len(done.answers), 1e-9)
        self._size = max(1, min(MOST, 2 * self._size, int(SECONDS / each)))


def serve(child: Callable[[], Child], task: bytes, chunk: Chunk, seconds: float = SECONDS) -> Done:
    """Run a pickled task on the items of a chunk, at least on the first, each in the process that `child` returns."""
    started, found = time.monotonic(), []
    for item in chunk:
        found.append(child().run(task, item))
        if time.monotonic() - started > seconds:
            break
    return Done(found, time.monotonic() - started)
