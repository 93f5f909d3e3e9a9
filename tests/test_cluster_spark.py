"""What only a Spark cluster does: speculation, resources of stages, Python workers that die. Needs the extra `spark` and Java."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core.contracts import Needs, Stage, TaskDied
from curate.core.counting import Grouping, PartialCounts
from curate.core.errors import RunnerError
from curate.planning.plan import Plan
from curate.runners.local.counts import duckdb_counting
from tests import running
from tests.clusters import SparkCluster, has_java, spark_cluster
from tests.dangerous import EndingItsParent, HangingAt, HungOnce, devices, worker_of
from tests.running import KEEP_ALL, InProcess, Setup, leftovers, make_tar, pairs, run_job, written

missing = find_spec("pyspark") is None or not has_java()
pytestmark = [
    pytest.mark.skipif(missing, reason="needs the extra spark, and Java 17"),
    pytest.mark.cluster,
    pytest.mark.filterwarnings("default"),  # Spark's own warnings are not ours to mend
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SparkCluster]:
    with spark_cluster() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in {**found.environment(), "PYSPARK_PYTHON": sys.executable}.items():
            patch.setenv(name, value)
        yield found


@contextmanager
def application(cluster: SparkCluster, conf: dict[str, str], **settings: int) -> Iterator[Any]:
    """Open a session as a notebook would, and a runner in it."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from curate.runners.spark.runner import SparkRunner

    SparkContext._ensure_initialized()  # a JVM keeps for its next applications what it is started with
    session = SparkSession.builder.master(cluster.address).config(map={"spark.ui.enabled": "false", **conf}).getOrCreate()
    try:
        with SparkRunner(**settings) as runner:
            yield runner
        session.range(1).count()  # the session was not the runner's to end
    finally:
        session.stop()


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(flag: Path) -> bool:
    """Return whether the process that a flag names has ended."""
    return not Path(f"/proc/{flag.read_text()}").exists()


@pytest.fixture(scope="class")
def runner(cluster: SparkCluster) -> Iterator[Any]:
    """Return a runner in a session that is there, with two executors."""
    several = {"spark.sql.adaptive.coalescePartitions.enabled": "false"}
    twice = {"spark.speculation": "true", "spark.speculation.task.duration.threshold": "1s"}
    with application(cluster, {**several, **twice, "spark.executor.resource.gpu.amount": "1"}) as found:
        yield found


class TestOneApplication:
    """These share an application."""

    def test_a_spark_task_sees_its_gpu_alone(self, runner: Any) -> None:
        assert set(runner.map(devices, range(4), Needs(models=True))) == {""}
        assert set(runner.map(devices, range(4), Needs(gpus=1, models=True))) == {"0"}
        assert set(runner.map(devices, range(4), Needs(models=True))) == {""}
        wait_until(lambda: runner.size("GPU") == 2)
        assert runner.cores_beside_a_gpu() == 1

    def test_answers_of_many_partitions_are_in_order(self, runner: Any, tmp_path: Path) -> None:
        files = partial_counts(tmp_path)
        asked = [Grouping("sum", files), Grouping("histogram", files), Grouping("sum", files, floor=5)]
        scratch = tmp_path / "scratch"
        with runner.counting(str(scratch), 0) as found, duckdb_counting(str(tmp_path), 10**9) as expected:
            for grouping in asked:
                answer = pa.Table.from_batches(found.count(grouping))
                assert answer.num_rows > 0
                assert answer.equals(pa.Table.from_batches(expected.count(grouping)))
            assert list(scratch.iterdir()) == []

    def test_more_room_than_threads_makes_larger_jobs(self, runner: Any) -> None:
        from curate.runners.spark.runner import SparkRunner

        with SparkRunner(workers=100) as wide:
            assert sorted(wide.map(abs, range(150), Needs())) == list(range(150))

    def test_a_python_worker_that_is_killed_costs_no_attempt(self, runner: Any, tmp_path: Path) -> None:
        killed = EndingItsParent(3, str(tmp_path / "flag"))
        assert sorted(runner.map(killed, range(8), Needs())) == list(range(8))
        assert (tmp_path / "flag").exists()

    def test_an_item_that_always_kills_its_python_worker_dies_alone(self, runner: Any) -> None:
        answers = list(runner.map(EndingItsParent(30), range(50), Needs()))
        deaths = [one for one in answers if isinstance(one, TaskDied)]
        assert [one.item for one in deaths] == [30]
        assert "Python worker exited unexpectedly" in deaths[0].reason
        assert sorted(one for one in answers if isinstance(one, int)) == [number for number in range(50) if number != 30]

    def test_a_straggler_is_overtaken_and_writes_nothing_twice(self, runner: Any, tmp_path: Path) -> None:
        files, flag = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4))) for n in (0, 4)], tmp_path / "flag"

        def once(plan: Plan) -> dict[str, Stage]:
            return {"decode": HungOnce(flag=str(flag))}

        setup = Setup(KEEP_ALL, files, stages=once)
        assert run_job(setup, tmp_path / "out", runner).failed == []
        wait_until(lambda: gone(flag))
        run_job(setup, tmp_path / "one" / "out", InProcess())
        assert written(tmp_path / "out") == written(tmp_path / "one" / "out")
        assert leftovers(tmp_path / "out") == []

    def test_an_application_has_one_master(self, runner: Any) -> None:
        from curate.runners.spark.runner import SparkRunner

        with pytest.raises(RunnerError, match="leave --master out"), SparkRunner("local[2]"):
            pass


def partial_counts(folder: Path) -> PartialCounts:
    """Return counts of 30,000 keys of 64 bits in three files."""
    draw = np.random.default_rng(5)
    for shard in range(3):
        keys = draw.integers(0, 1 << 64, 20_000, np.uint64)
        keys[::2] = keys[0]
        table = pa.table({"key": pa.array(keys), "n": pa.array(draw.integers(1, 9, len(keys)))})
        pq.write_table(table, folder / f"{shard}.parquet")
    names = pa.array([f"{shard}.parquet" for shard in range(3)])
    return PartialCounts(str(folder), names, pa.array([4, 5, 6]), pa.array([1, 1, 1]))


def test_what_nobody_waits_for_is_ended(cluster: SparkCluster, tmp_path: Path) -> None:
    """Without speculation: the item that hangs has one of the two slots, and the first chunks are of a single item each."""
    flag = tmp_path / "flag"
    with application(cluster, {}) as runner:
        answers = runner.map(HangingAt(3, str(flag)), count(), Needs())
        assert all(isinstance(one, int) for one in islice(answers, 3))
        wait_until(lambda: flag.exists() and flag.read_text() != "")
        answers.close()
        wait_until(lambda: gone(flag))


def test_executors_with_gpus_are_asked_for(cluster: SparkCluster) -> None:
    grows = {"spark.dynamicAllocation.enabled": "true", "spark.dynamicAllocation.executorIdleTimeout": "2s"}
    with application(cluster, grows, gpus=2) as runner:
        assert set(runner.map(devices, range(4), Needs(gpus=1, models=True))) == {"0"}


def test_what_an_application_cannot_do_is_one_line(cluster: SparkCluster) -> None:
    from curate.runners.spark.runner import SparkRunner

    with SparkRunner(cluster.address) as runner:
        with pytest.raises(RunnerError, match=r"set spark\.executor\.resource\.gpu\.amount"):
            list(runner.map(devices, range(4), Needs(gpus=1)))
        answers = runner.map(worker_of, count(), Needs())
        next(answers)
        runner._context.stop()
        with pytest.raises(RunnerError, match="the Spark application has ended"):
            list(answers)


def test_workers_without_curate_are_one_line(cluster: SparkCluster, tmp_path: Path) -> None:
    from curate.runners.spark.runner import SparkRunner

    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", str(bare))
        with SparkRunner(cluster.address) as runner, pytest.raises(RunnerError, match=r"cannot run curate.*ModuleNotFoundError"):
            list(runner.map(worker_of, range(4), Needs()))


def test_no_java_is_one_line(cluster: SparkCluster, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(2)))
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    line = running.command("run", tmp_path / "recipe.yaml", tar, "--out", tmp_path / "out", "--runner", "spark")
    environment = {**os.environ, "JAVA_HOME": "/nowhere"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "curate: --runner spark needs Java 17, and there is no java in JAVA_HOME=/nowhere (Debian: openjdk-17-jre-headless)\n"
    )
