"""Items on Spark, in chunks: a job for every few of them; what became of them comes back as each job ends.

In the Python worker each item goes to the child that this worker keeps.
"""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError
from pyspark import InheritableThread, SparkContext, TaskContext
from pyspark.resource import ResourceProfile

from curate.core.contracts import TaskDied
from curate.core.errors import RunnerError
from curate.runners.spark.child import Child
from curate.runners.spark.chunks import Chunk, Chunks, Did, serve
from curate.runners.spark.session import ERRORS, TRACEBACK, said

_JOBS = 64  # under way at once, each a thread of the driver; on a cluster with more cores each has several tasks
_JOIN_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # between looks at how large the cluster is
_ENDED = "the Spark application has ended"


@dataclass(frozen=True)
class Work:
    """What is done with each item, for how many Spark tasks at once there is room now, and what each of them is given."""

    task: Callable[[Any], Any]
    room: Callable[[], int]
    profile: ResourceProfile | None
    name: str


def answers(context: SparkContext, work: Work, items: Iterable[Any]) -> Iterator[Any]:
    """Yield an answer, or how it died, for every item. Raises RunnerError when Spark has ended or its workers lack the code."""
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
    """The Spark jobs of one map: a thread waits for each, a queue brings what became of them."""

    def __init__(self, context: SparkContext, work: Work, items: Iterable[Any]) -> None:
        self._context, self._work = context, work
        self._chunks = Chunks(items)
        self._serve = _Serve(pickle.dumps(work.task))
        self._group = f"curate-{uuid.uuid4().hex[:8]}"
        self._done: queue.SimpleQueue[tuple[list[Chunk], list[Did] | Exception]] = queue.SimpleQueue()
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
        """Return the chunks of the next job, one a Spark task; none when there is nothing left to give out."""
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
        """Wait until a job has ended, and yield its answers."""
        chunks, became = self._done.get()
        self.under_way.pop(id(chunks)).join()
        if isinstance(became, Exception):
            yield from self._lost(chunks, became)
            return
        for chunk, did in zip(chunks, became, strict=True):
            self._chunks.ended(chunk, did)
            for item, answer in zip(chunk, did.answers, strict=False):
                yield TaskDied(item, answer.reason, answer.exitcode, answer.error) if isinstance(answer, TaskDied) else answer

    def end(self) -> None:
        """Cancel what is under way."""
        for thread in self.under_way.values():
            while thread.is_alive() and not _stopped(self._context):
                self._context.cancelJobGroup(self._group)  # again for a job that had not begun
                thread.join(_JOIN_SECONDS)

    def _width(self) -> int:
        return -(-self._room // _JOBS)

    def _perform(self, chunks: list[Chunk]) -> None:
        became: list[Did] | Exception
        try:
            self._context.setJobGroup(self._group, f"{self._work.name}: {sum(map(len, chunks))} items", interruptOnCancel=True)
            rdd = self._context.parallelize(chunks, len(chunks)).mapPartitions(self._serve)
            became = (rdd if self._work.profile is None else rdd.withResources(self._work.profile)).collect()
        except Exception as error:  # noqa: BLE001 - of a thread: whoever takes it decides
            became = error
        self._done.put((chunks, became))

    def _lost(self, chunks: list[Chunk], error: Exception) -> Iterator[Any]:
        """Give a job that Spark gave up out again, in parts, until the item that it cannot do is alone."""
        reason = said(error)
        if _stopped(self._context):
            raise RunnerError(f"{_ENDED}: {reason}") from None
        if not isinstance(error, ERRORS):
            raise error
        if TRACEBACK in str(error):
            raise RunnerError(f"Spark's workers cannot run curate, which they need installed as it is here: {reason}") from None
        if len(chunks) > 1:
            self._again.extend([chunk] for chunk in chunks)
        elif len(chunks[0]) > 1:
            self._again.extend([[item]] for item in chunks[0])
        else:
            yield TaskDied(chunks[0][0], f"its worker died: {reason}")


def _stopped(context: SparkContext) -> bool:
    try:
        return bool(context._jsc is None or context._jsc.sc().isStopped())
    except (Py4JError, OSError):
        return True


# In the Python workers -----------------------------------------------------------------------------------------------

_kept: list[Child] = []
"""The child of this Python worker: kept over the Spark tasks that this takes, for which Spark keeps it."""


@dataclass(frozen=True)
class _Serve:
    """What a Spark task does with its chunk."""

    task: bytes

    def __call__(self, chunks: Iterator[Chunk]) -> Iterator[Did]:
        for chunk in chunks:
            yield serve(_child, self.task, chunk)


def _child() -> Child:
    """Return the child that sees the GPUs of this Spark task alone; a new one where there was none, or another's, or it died."""
    context = TaskContext.get()
    given = context.resources() if context is not None else {}
    device = ",".join(given["gpu"].addresses) if "gpu" in given else ""
    if _kept and not (_kept[0].device == device and _kept[0].alive()):
        _kept.pop().end()
    if not _kept:
        _kept.append(Child(device))
    return _kept[0]
