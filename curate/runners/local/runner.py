"""The runner for one machine: spawned worker processes. A worker that dies takes only its own item with it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any, TypeVar

from curate.core.contracts import Needs, TaskDied
from curate.core.counting import Counting
from curate.runners.local.counts import duckdb_counting
from curate.runners.worker import ONE_THREAD, prepare

T = TypeVar("T")
R = TypeVar("R")


class LocalRunner:
    """A pool of `workers` processes, kept over the passes of a run.

    Tasks that need a GPU run in one process per GPU (several where they need a fraction), which sees no other GPU. These
    processes live as long as their pass, and the others end before it, so that neither holds memory that the other could use.
    """

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self.workers, self.gpus = workers, gpus
        self._pools: list[Any] = []  # one of all workers, or one per GPU
        self._on_gpus = False

    def __enter__(self) -> LocalRunner:
        for name, one in ONE_THREAD.items():
            os.environ.setdefault(name, one)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._end(kind)

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield answers as they come; at most two items per worker are taken ahead, so `items` may be a long stream."""
        on_gpus, each = needs.gpus > 0, max(1, round(1 / (needs.gpus or 1)))
        if on_gpus or self._on_gpus:
            self._end(None)
        self._on_gpus = on_gpus
        if on_gpus:
            self._pools = [_pool(each, device) for device in _devices(max(1, self.gpus))]
        elif not self._pools:
            self._pools = [_pool(self.workers, None)]
        yield from _answers(task, items, self._pools, each if on_gpus else 2 * self.workers)

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        """Open a DuckDB session in this process."""
        return duckdb_counting(scratch, memory)

    def _end(self, error: type[BaseException] | None) -> None:
        for child in multiprocessing.active_children():
            if isinstance(child, _Worker):
                child.wait_started()
        for pool in self._pools:
            if error is None:
                pool.close()
            else:
                pool.stop()
        for pool in self._pools:
            pool.join()
        self._pools = []


class _Worker(SpawnProcess):
    """A worker that signals when it has started: ending a pool removes semaphores that a starting worker still has to open."""

    def start(self) -> None:
        self._started, self._signal = multiprocessing.Pipe(duplex=False)
        with _without_interrupts():
            super().start()
        self._signal.close()

    def run(self) -> None:
        self._signal.close()
        super().run()

    def wait_started(self) -> None:
        """Wait until the worker has read what it needs to start, or is dead: both close its end of the pipe."""
        self._started.poll(None)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back in this thread: a process that is started here inherits that, and is not interrupted in its imports."""
    import signal

    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(SpawnContext):
    """Processes of a pool, each a _Worker."""

    Process = _Worker


def _devices(count: int) -> list[str]:
    """Return the names, as in CUDA_VISIBLE_DEVICES, of the first `count` GPUs that this process may use."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (given or [str(number) for number in range(count)])[:count]


def _pool(workers: int, device: str | None) -> Any:
    """Return a pool of processes, which see only the GPU `device` where it is given; so do those that replace dead ones."""
    from pebble import ProcessPool

    return ProcessPool(workers, context=_Spawn(), initializer=_prepare, initargs=(device,))


def _answers(task: Callable[[T], R], items: Iterable[T], pools: Sequence[Any], ahead: int) -> Iterator[R | TaskDied]:
    """Yield the answers of several pools; each item goes to the pool with the fewest, which holds at most `ahead` at once."""
    waiting: dict[Future[Any], tuple[T, int]] = {}
    held = [0] * len(pools)
    stream = iter(items)
    while True:
        while (least := min(held)) < ahead and (item := next(stream, None)) is not None:
            place = held.index(least)
            waiting[pools[place].schedule(task, args=(item,))] = item, place
            held[place] += 1
        if not waiting:
            return
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            item, place = waiting.pop(future)
            held[place] -= 1
            yield _answer(future, item)


def _answer(future: Future[Any], item: Any) -> Any:
    from pebble import ProcessExpired

    try:
        return future.result()
    except ProcessExpired as death:
        return TaskDied(item, f"its worker died with exit code {death.exitcode}", death.exitcode)
    except Exception as error:  # noqa: BLE001 - reported with its item: a task that fails must not end the others
        return TaskDied(item, f"{type(error).__name__}: {error}", error=type(error).__name__)


def _prepare(device: str | None) -> None:
    """Set up a worker: its GPU, one thread per library, and no interrupts, which the driver handles."""
    import signal
    import threading

    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    prepare()


def _end_with(sentinel: int) -> None:
    """End this worker as soon as its driver is gone, for whatever reason: the lock on OUT is gone too."""
    from multiprocessing.connection import wait as wait_for

    wait_for([sentinel])
    os._exit(1)
