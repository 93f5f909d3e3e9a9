"""What an engine adds: five minutes of shard passes, tiny shards by the thousand, and the fixed cost of a count, on each runner.

The same two workers everywhere, a core each, on clusters that have started: two Ray nodes, two Spark executors, two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from curate.core.contracts import Needs, Report, Runner
from curate.counts.merge import Engine, Scanned, merge
from curate.passes.judge import Judge
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.sources.listing import list_shards
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.bench.measure import ROOT, Figure, at_most, photos, plan_of, scratch, write_tar

PHOTOS = 500  # of a shard
SHARDS = 130  # five minutes of work for two quiet cores
TINY = (1000, 10_000)  # shards of three photos
WARM = 4  # shards that go before: workers start, libraries load
COUNTED = """
filters:
  caption_frequency:
  unreadable:
"""
RECIPE = """
filters:
  min_side: {larger_than: 100}
  unreadable:
  eval_overlap: {similarity: 1.0}
"""


def linked(tar: Path, folder: Path, count: int) -> list[str]:
    """Return so many names of one tar: every name is a shard of its own."""
    folder.mkdir()
    for number in range(count):
        os.link(tar, folder / f"{number:05d}.tar")
    return [str(folder)]


class Child:
    """The measurements on one runner, in a process of its own."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self._folder, self._runner = folder, runner

    def run(self) -> dict[str, Any]:
        """Return seconds by what is measured."""
        given = photos()
        rows = [(f"{n:06d}", given[n % len(given)], f"a picture of thing number {n}") for n in range(PHOTOS)]
        large, tiny = write_tar(self._folder / "large.tar", rows), write_tar(self._folder / "tiny.tar", rows[:3])
        (self._folder / "eval").mkdir()
        (self._folder / "eval" / "0.jpg").write_bytes(given[0])
        plan = plan_of(RECIPE, self._folder, [f"eval_overlap.sets={self._folder / 'eval'}"])
        self._passes(plan, linked(large, self._folder / "warm", WARM), "warm")
        found: dict[str, Any] = {"passes": self._passes(plan, linked(large, self._folder / "many", SHARDS), "out")}
        for count in TINY:
            names = linked(tiny, self._folder / f"tiny{count}", count)
            found[f"tiny_{count}"] = self._scan(plan, names, f"tiny-out{count}") / count * 1e3
        return {**found, "count": self._count()}

    def _count(self) -> float:
        """Return the seconds of a merge of next to nothing."""
        plan = plan_of(COUNTED, self._folder)
        self._scan(plan, [str(self._folder / "warm")], "counted")
        shards = list_shards([str(self._folder / "warm")], {})
        store, scanned = Store(storage(self._folder / "counted")), Scanned(shards.fingerprints, np.arange(len(shards)))
        started = time.perf_counter()
        merge(store, plan.counts, scanned, Engine(self._runner, 500_000_000))
        return time.perf_counter() - started

    def _passes(self, plan: Plan, names: Sequence[str], out: str) -> float:
        started, base = time.perf_counter(), plan.base_key
        self._scan(plan, names, f"{out}-out")
        store = Store(storage(self._folder / f"{out}-out"))
        judge = Judge(store, plan, base, "run", {})
        self._all(judge, names, Needs(models=True))
        return time.perf_counter() - started

    def _scan(self, plan: Plan, names: Sequence[str], out: str) -> float:
        started = time.perf_counter()
        self._all(Scan(Store(storage(self._folder / out)), plan.base_key, plan.header, plan.text, plan.counts), names, Needs())
        return time.perf_counter() - started

    def _all(self, task: Any, names: Sequence[str], needs: Needs) -> None:
        for answer in self._runner.map(task, list_shards(names, {}), needs):
            assert isinstance(answer, Report), answer


def runner_of(engine: str) -> AbstractContextManager[Any]:
    """Return a runner of two workers."""
    if engine == "ray":
        from curate.runners.ray.runner import RayRunner

        return RayRunner()
    if engine == "spark":
        from curate.runners.spark.runner import SparkRunner

        return SparkRunner()
    from curate.runners.local.runner import LocalRunner

    return LocalRunner(2)


@contextmanager
def environment_of(engine: str) -> Iterator[dict[str, str]]:
    """Start a cluster, if the engine has one, and give what a driver must have in its environment."""
    from tests.clusters import ray_cluster, spark_cluster

    if engine == "local":
        yield {**os.environ}
        return
    with (ray_cluster if engine == "ray" else spark_cluster)() as cluster:
        yield cluster.environment()


def measured(engine: str) -> dict[str, Any]:
    """Return what a child measures on an engine."""
    with scratch(), tempfile.TemporaryDirectory(prefix="curate-bench-") as folder, environment_of(engine) as environment:
        command = [sys.executable, "-m", "tests.bench.engines", engine, folder]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def run() -> list[Figure]:
    """Measure local first, then each engine that is installed beside it."""
    engines = [name for name, package in (("local", "pebble"), ("ray", "ray"), ("spark", "pyspark")) if find_spec(package)]
    found = {engine: measured(engine) for engine in engines}
    figures = []
    for engine, most in (("ray", 0.05), ("spark", 0.10)):
        if engine in found:
            over = found[engine]["passes"] / found["local"]["passes"] - 1
            seconds = {f"{name}_seconds": round(found[name]["passes"], 1) for name in ("local", engine)}
            figures.append(at_most(f"{engine}_overhead", over, "of local's time", most, seconds))
    for engine, told in found.items():
        for count in TINY:
            figures.append(at_most(f"{engine}_shard_of_{count}", told[f"tiny_{count}"], "ms", 10))
        figures.append(Figure(f"{engine}_count_fixed", told["count"], "s", "(told)", True))
    return figures


if __name__ == "__main__":
    with runner_of(sys.argv[1]) as running:
        print(json.dumps(Child(Path(sys.argv[2]), running).run()))
