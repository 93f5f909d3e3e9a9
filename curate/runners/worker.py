"""What every worker process does, whichever engine started it: one thread per library, and errors of tasks as answers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from curate.core.contracts import TaskDied

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT"), "1")
"""Environment of a worker, read by libraries when they are loaded: two workers with one thread each beat one with two."""


def attempt(task: Callable[[Any], Any], item: Any) -> Any:
    """Return the task's answer, or a TaskDied with its error but without the item, which the caller still has."""
    prepare()
    try:
        return task(item)
    except Exception as error:  # noqa: BLE001 - reported with its item: a task that fails must not end the others
        return TaskDied(None, f"{type(error).__name__}: {error}", error=type(error).__name__)


@functools.cache
def prepare() -> None:
    """Give Arrow one thread, and keep it from searching for packages that are not installed."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.array([0])  # makes its Python half look for pandas, once
    for name in ("pandas", "dateutil"):
        if find_spec(name) is None:  # its C++ half would search again for every list that becomes an array: 0.1 ms each
            cast(dict[str, object], sys.modules)[name] = None
