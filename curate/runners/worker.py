"""What every worker process does, whichever engine started it: one thread a library, and a task's error as an answer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from curate.core.contracts import TaskDied

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT"), "1")
"""Environment of a worker, read by the libraries when the process loads them: two with one thread each beat one with two."""


def attempt(task: Callable[[Any], Any], item: Any) -> Any:
    """Return the task's answer, or how it raised; without the item, which whoever asked still has."""
    prepare()
    try:
        return task(item)
    except Exception as error:  # noqa: BLE001 - the task's own failure: reported with its item, never the end of the others
        return TaskDied(None, f"{type(error).__name__}: {error}", error=type(error).__name__)


@functools.cache
def prepare() -> None:
    """Give Arrow one thread, and spare it looking for packages that are not there."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.array([0])  # makes its Python half look for pandas, once
    for name in ("pandas", "dateutil"):
        if find_spec(name) is None:  # its C++ half would look again at every list that becomes an array: 0.1 ms each
            cast(dict[str, object], sys.modules)[name] = None
