"""Items on Spark: one Spark job for every few chunks of items, whose answers come back when the job ends.

In the Python worker, items run in a child process that the worker keeps.
"""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError
from pyspark import InheritableThread, SparkContext, TaskContext
from pyspark.resource import ResourceProfile

from curate.core.contracts import TaskDied, item_name
from curate.core.errors import RunnerError
from curate.runners.spark.child import Child
from curate.runners.spark.chunks import Chunk, Chunks, Done, serve
from curate.runners.spark.session import ERRORS, TRACEBACK, one_line

_JOBS = 64  # at once, each a thread of the driver; on a cluster with more cores each job has several Spark tasks
_JOIN_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # between looks at how large the cluster is
_ENDED = "the Spark application has ended"


@dataclass(frozen=True)
class Work:
    """The task, how many Spark tasks may be submitted now, what Spark reserves for each, and a name to show."""

    task: Callable[[Any], Any]
    room: Callable[[], int]
    profile: ResourceProfile | None
    name: str


def answers(context: SparkContext, work: Work, items: Iterable[Any]) -> Iterator[Any]:
    """Yield an answer, or how it died, for every item. Raises RunnerError if Spark ends, or its workers cannot import curate."""
    run = _Run(context, work, items)
    try:
        while True:
            while run.free() and (chunks := run.next()):
                run.start(chunks)
            if not run.under_way:
                return
            yield from run.take()
    finally:
        run.end()


class _Run:
    """The Spark jobs of one map: a thread waits for each and puts its result into a queue."""

    def __init__(self, context: SparkContext, work: Work, items: Iterable[Any]) -> None:
        self._context, self._work = context, work
        self._chunks = Chunks(items)
        self._serve = _Serve(pickle.dumps(work.task))
        self._group = f"curate-{uuid.uuid4().hex[:8]}"
        self._done: queue.SimpleQueue[tuple[list[Chunk], list[Done] | Exception]] = queue.SimpleQueue()
        self._again: deque[list[Chunk]] = deque()
        self._room, self._looked = 1, 0.0
        self.under_way: dict[int, InheritableThread] = {}

    def free(self) -> bool:
        """Return whether another job may start."""
        now = time.monotonic()
        if not self._looked or now - self._looked > _LOOK_SECONDS:
            if _stopped(self._context):
                raise RunnerError(_ENDED)
            self._room, self._looked = max(1, self._work.room()), now
        return len(self.under_way) < -(-self._room // self._width())

    def next(self) -> list[Chunk]:
        """Return the chunks of the next job, one per Spark task; an empty list at the end."""
        if self._again:
            return self._again.popleft()
        cut = (self._chunks.cut(self._room) for _ in range(self._width()))
        return [chunk for chunk in cut if chunk]

    def start(self, chunks: list[Chunk]) -> None:
        """Start a job."""
        thread = InheritableThread(target=lambda: self._perform(chunks), daemon=True)
        self.under_way[id(chunks)] = thread
        thread.start()

    def take(self) -> Iterator[Any]:
        """Wait until a job ends, and yield its answers."""
        chunks, result = self._done.get()
        self.under_way.pop(id(chunks)).join()
        if isinstance(result, Exception):
            yield from self._lost(chunks, result)
            return
        for chunk, done in zip(chunks, result, strict=True):
            self._chunks.ended(chunk, done)
            yield from done.named(chunk)

    def end(self) -> None:
        """Cancel all jobs."""
        for thread in self.under_way.values():
            while thread.is_alive() and not _stopped(self._context):
                self._context.cancelJobGroup(self._group)  # repeated for a job that had not started
                thread.join(_JOIN_SECONDS)

    def _width(self) -> int:
        return -(-self._room // _JOBS)

    def _perform(self, chunks: list[Chunk]) -> None:
        result: list[Done] | Exception
        try:
            self._context.setJobGroup(self._group, f"{self._work.name}: {_range(chunks)}", interruptOnCancel=True)
            rdd = self._context.parallelize(chunks, len(chunks)).mapPartitions(self._serve)
            result = (rdd if self._work.profile is None else rdd.withResources(self._work.profile)).collect()
        except Exception as error:  # noqa: BLE001 - handed over to the main thread
            result = error
        self._done.put((chunks, result))

    def _lost(self, chunks: list[Chunk], error: Exception) -> Iterator[Any]:
        """Split a job that Spark gave up and queue its parts again, until the item that made it fail is alone."""
        reason = one_line(error)
        if _stopped(self._context):
            raise RunnerError(f"{_ENDED}: {reason}") from None
        if not isinstance(error, ERRORS):
            raise error
        if TRACEBACK in str(error):
            raise RunnerError(
                f"Spark's workers cannot run curate, which must be installed there as it is here: {reason}"
            ) from None
        if len(chunks) > 1:
            self._again.extend([chunk] for chunk in chunks)
        elif len(chunks[0]) > 1:
            self._again.extend([[item]] for item in chunks[0])
        else:
            yield TaskDied(chunks[0][0], f"its worker died: {reason}")


def _range(chunks: Sequence[Chunk]) -> str:
    """Return what a job works on: from which item to which, and how many.

    >>> _range([["a.tar", "b.tar"], ["c.tar"]]), _range([["a.tar"]])
    ('a.tar to c.tar, 3 items', 'a.tar')
    """
    first, last, items = item_name(chunks[0][0]), item_name(chunks[-1][-1]), sum(map(len, chunks))
    return first if items == 1 else f"{first} to {last}, {items:,} items"


def _stopped(context: SparkContext) -> bool:
    try:
        return bool(context._jsc is None or context._jsc.sc().isStopped())
    except (Py4JError, OSError):
        return True


# In the Python workers -----------------------------------------------------------------------------------------------

_kept: list[Child] = []
"""The child of this Python worker, which Spark reuses for one Spark task after the other."""


@dataclass(frozen=True)
class _Serve:
    """What a Spark task does: it runs a pickled task on the items of its chunk."""

    task: bytes

    def __call__(self, chunks: Iterator[Chunk]) -> Iterator[Done]:
        for chunk in chunks:
            yield serve(_child, self.task, chunk)


def _child() -> Child:
    """Return a child that sees only the GPUs of this Spark task: the one that is kept, if it does and is alive, or a new one."""
    context = TaskContext.get()
    resources = context.resources() if context is not None else {}
    device = ",".join(resources["gpu"].addresses) if "gpu" in resources else ""
    if _kept and not (_kept[0].device == device and _kept[0].alive()):
        _kept.pop().end()
    if not _kept:
        _kept.append(Child(device))
    return _kept[0]
