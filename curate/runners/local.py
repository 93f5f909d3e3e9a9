"""One machine: spawned worker processes. A worker that dies takes only its own item with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, TypeVar

from curate.contracts import Needs, TaskDied

T = TypeVar("T")
R = TypeVar("R")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


class LocalRunner:
    """A pool of `workers` processes, kept over all passes of a run; two with one thread each beat one with two."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> LocalRunner:
        import multiprocessing

        from pebble import ProcessPool

        for name in _ONE_THREAD:  # read by the libraries when the spawned process loads them
            os.environ.setdefault(name, "1")
        self._pool = ProcessPool(self.workers, context=multiprocessing.get_context("spawn"), initializer=_prepare)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield answers as they come; at most two items a worker are ahead, so that items may be a long stream."""
        waiting: dict[Future[Any], T] = {}
        stream = iter(items)
        while True:
            while len(waiting) < 2 * self.workers and (item := next(stream, None)) is not None:
                waiting[self._pool.schedule(task, args=(item,))] = item
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield _answer(future, waiting.pop(future))


def _answer(future: Future[Any], item: Any) -> Any:
    from pebble import ProcessExpired

    try:
        return future.result()
    except ProcessExpired as death:
        return TaskDied(item, f"its worker died with exit code {death.exitcode}", death.exitcode)
    except Exception as error:  # noqa: BLE001 - the task's own failure: reported with its item, never the end of the others
        return TaskDied(item, f"{type(error).__name__}: {error}")


def _prepare() -> None:
    """Set up a worker: one thread for each library, and interrupts are the driver's to handle."""
    import multiprocessing
    import signal
    import sys
    import threading
    from importlib.util import find_spec
    from typing import cast

    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.array([0])  # makes its Python half look for pandas, once
    for name in ("pandas", "dateutil"):
        if find_spec(name) is None:  # its C++ half would look again at every list that becomes an array: 0.1 ms each
            cast(dict[str, object], sys.modules)[name] = None


def _end_with(sentinel: int) -> None:
    """End this worker as soon as its driver is gone, however it went: the lock on OUT went with it."""
    import signal
    from multiprocessing.connection import wait as wait_for

    wait_for([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
