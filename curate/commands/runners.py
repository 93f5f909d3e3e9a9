"""Opens the runner of a command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from curate.commands import common
from curate.commands.options import Run, Work
from curate.core.contracts import Runner
from curate.core.errors import InputError, RunnerError
from curate.planning.plan import Plan

if TYPE_CHECKING:
    from curate.runners.ray.runner import RayRunner
    from curate.runners.spark.runner import SparkRunner


@dataclass(frozen=True)
class Crew:
    """A runner, the number of GPUs for captioner and matcher, and of decoding threads per GPU."""

    runner: Runner
    gpus: int
    threads: int


@contextmanager
def crew(given: Run, plan: Plan, shards: int) -> Iterator[Crew]:
    """Open the runner that the command names.

    Raises RunnerError without its package or cluster, InputError if there are fewer GPUs than requested.
    """
    with {"local": _local, "ray": _ray, "spark": _spark}[given.runner](given, plan, shards) as found:
        yield found


@contextmanager
def open_runner(given: Work, items: int) -> Iterator[Runner]:
    """Open the runner of a command without models, for this many items. Raises RunnerError without its package or cluster."""
    if given.runner == "local":
        from curate.runners.local.runner import LocalRunner

        with LocalRunner(max(1, min(common.workers(given.workers), items))) as runner:
            yield runner
    elif given.runner == "ray":
        with _ray_runner(given) as on_ray:
            yield on_ray
    else:
        with _spark_runner(given) as on_spark:
            yield on_spark


def _ray_runner(given: Work, gpus: int | None = None, least: int = 1) -> RayRunner:
    try:
        from curate.runners.ray.runner import RayRunner
    except ImportError as error:
        raise RunnerError(f"--runner ray needs {error.name}: pip install 'curate-image-text[ray]'") from None
    return RayRunner(given.address, given.workers, gpus, least)


def _spark_runner(given: Work, gpus: int | None = None) -> SparkRunner:
    try:
        from curate.runners.spark.runner import SparkRunner
    except ImportError as error:
        raise RunnerError(f"--runner spark needs {error.name}: pip install 'curate-image-text[spark]'") from None
    return SparkRunner(given.master, given.workers, gpus)


@contextmanager
def _local(given: Run, plan: Plan, shards: int) -> Iterator[Crew]:
    from curate.runners.local.runner import LocalRunner

    gpus, workers = min(_gpus(given.gpus, plan), shards), common.workers(given.workers)
    with LocalRunner(min(workers, max(1, shards)), gpus) as runner:
        yield Crew(runner, gpus, max(1, workers // max(1, gpus)))


@contextmanager
def _ray(given: Run, plan: Plan, shards: int) -> Iterator[Crew]:
    with _ray_runner(given, given.gpus, given.min_workers) as runner:
        yield _on_cluster(runner, given, plan, shards)


@contextmanager
def _spark(given: Run, plan: Plan, shards: int) -> Iterator[Crew]:
    with _spark_runner(given, given.gpus) as runner:
        yield _on_cluster(runner, given, plan, shards)


class _Cluster(Runner, Protocol):
    """A runner that knows the resources of its cluster."""

    def size(self, resource: str) -> int:
        """Return the number of CPUs or GPUs now."""

    def cores_beside_a_gpu(self) -> int:
        """Return the number of cores per GPU."""


def _on_cluster(runner: _Cluster, given: Run, plan: Plan, shards: int) -> Crew:
    asks = plan.on_gpu and given.gpus != 0
    gpus = min(given.gpus or runner.size("GPU"), shards) if asks else 0
    return Crew(runner, gpus, runner.cores_beside_a_gpu() if gpus else 1)


def _gpus(wanted: int | None, plan: Plan) -> int:
    """Return the number of GPUs for captioner and matcher. Raises InputError if this machine has fewer than requested."""
    from curate.models.checks import gpus

    if wanted == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read by CUDA when it starts, in this process and in the workers
    if wanted == 0 or not plan.on_gpu:
        return 0
    found = gpus()
    if wanted is not None and wanted > found:
        raise InputError(f"--gpus {wanted}: this machine has {found or 'none'} that torch can use")
    return found if wanted is None else wanted
