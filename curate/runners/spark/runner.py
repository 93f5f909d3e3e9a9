"""The runner for a Spark cluster: Spark tasks of many items for every pass, Spark SQL for corpus counts.

Only reports are sent, never image bytes. Spark itself repeats a Spark task whose executor or Python worker was lost. The
caller decides which items are tried again, so an item that kills its process is an answer, not a failed Spark task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TypeVar

from pyspark.resource import ExecutorResourceRequests, ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from curate.core.contracts import Needs, TaskDied, task_name
from curate.core.counting import Counting
from curate.core.errors import RunnerError
from curate.runners.spark.counts import spark_counting
from curate.runners.spark.session import session
from curate.runners.spark.tasks import Work, answers

T = TypeVar("T")
R = TypeVar("R")

_EXECUTOR_GPUS = "spark.executor.resource.gpu.amount"
_NO_GPUS = (
    "this Spark application has no GPUs: set spark.executor.resource.gpu.amount (standalone: on its workers too, "
    "spark.worker.resource.gpu.amount and spark.worker.resource.gpu.discoveryScript), or --gpus 0"
)


class SparkRunner:
    """Runs on this process's Spark session, or one at `master`; `workers` or `gpus` limit how many items run at once."""

    def __init__(self, master: str | None = None, workers: int | None = None, gpus: int | None = None) -> None:
        self._master, self._workers, self._gpus = master, workers, gpus
        self._profiles: dict[tuple[int, float], ResourceProfile | None] = {}

    def __enter__(self) -> SparkRunner:
        self._held = ExitStack()
        self._session: SparkSession = self._held.enter_context(session(self._master))
        self._context = self._session.sparkContext
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def size(self, resource: str) -> int:
        """Return how many of a resource (CPU, GPU) the application has now; before the first executor, as many as one has."""
        if resource == "GPU":
            return max(1, self._executors()) * int(self._conf(_EXECUTOR_GPUS, "0"))
        return int(self._context.defaultParallelism)

    def cores_beside_a_gpu(self) -> int:
        """Return the cores per GPU of an executor."""
        cores = int(self._conf("spark.executor.cores", "0"))
        if not cores:
            self._context.parallelize([0], 1).count()  # starts an executor, which has all cores of its node
            cores = self.size("CPU") // max(1, self._executors())
        return max(1, cores // max(1, int(self._conf(_EXECUTOR_GPUS, "1"))))

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield answers as Spark jobs end (see chunks.py); at most two Spark tasks per core, of 100 items, are taken ahead."""
        yield from answers(self._context, Work(task, lambda: self._room(needs), self._profile(needs), task_name(task)), items)

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        """Open a session on Spark SQL, which spills to the executors' own disks; results come back through `scratch`."""
        return spark_counting(self._session, scratch)

    def _room(self, needs: Needs) -> int:
        """Return how many Spark tasks may be submitted now: twice as many as can run, so that no core waits for the driver."""
        most = self._gpus if needs.gpus else self._workers
        if most is not None:
            return int(most / needs.gpus) if needs.gpus else most
        return 2 * int(self.size("GPU") / needs.gpus if needs.gpus else self.size("CPU") / max(1, math.ceil(needs.cpus)))

    def _profile(self, needs: Needs) -> ResourceProfile | None:
        """Return what Spark must reserve for a task; None for a single core, or on a local master."""
        wanted = max(1, math.ceil(needs.cpus)), needs.gpus
        if wanted not in self._profiles:
            self._profiles[wanted] = self._reserved(*wanted)
        return self._profiles[wanted]

    def _reserved(self, cpus: int, gpus: float) -> ResourceProfile | None:
        local = self._context.master.startswith("local")
        if gpus and local:
            raise RunnerError(f"a local Spark reserves no GPUs: use --runner local, or --gpus 0 (master {self._context.master})")
        if not gpus and (local or cpus <= int(self._conf("spark.task.cpus", "1"))):
            return None
        builder, tasks = ResourceProfileBuilder(), TaskResourceRequests().cpus(cpus)
        if gpus:
            tasks = tasks.resource("gpu", gpus)
            if self._conf("spark.dynamicAllocation.enabled", "false") == "true":
                builder = builder.require(self._executors_with_gpus(cpus))
            elif not int(self._conf(_EXECUTOR_GPUS, "0")):
                raise RunnerError(_NO_GPUS)
        return builder.require(tasks).build

    def _executors_with_gpus(self, cpus: int) -> ExecutorResourceRequests:
        """Request separate executors, which dynamic allocation then starts."""
        cores = max(cpus, int(self._conf("spark.executor.cores", "0")))
        script, vendor = (self._conf(f"spark.executor.resource.gpu.{name}", "") for name in ("discoveryScript", "vendor"))
        return ExecutorResourceRequests().cores(cores).resource("gpu", int(self._conf(_EXECUTOR_GPUS, "1")), script, vendor)

    def _executors(self) -> int:
        """Return how many executors have started, without the driver."""
        return int(self._context._jsc.sc().getExecutorMemoryStatus().size()) - 1

    def _conf(self, name: str, default: str) -> str:
        return str(self._context.getConf().get(name, default))
