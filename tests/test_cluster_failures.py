"""Workers, nodes and drivers that die, on all runners and real clusters of two nodes: the bytes of a run in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curate.core.contracts import Needs, Runner, Stage
from curate.planning.plan import Plan
from tests import running, test_capfilt
from tests.clusters import Cluster
from tests.dangerous import KILLED, RAISE, DangerousDecode, KilledOnce
from tests.engines import ON_CLUSTERS
from tests.running import KEEP_ALL, InProcess, Setup, leftovers, make_tar, pairs, run_job, written

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]  # the engines' own warnings are not ours to mend

CAPTIONED = test_capfilt.CAPTIONS + KEEP_ALL.lstrip().replace("output", test_capfilt.MATCH)


@pytest.mark.parametrize("recipe", [KEEP_ALL, CAPTIONED])
def test_a_worker_killed_in_the_middle_of_a_shard_changes_nothing(recipe: str, runner: Runner, tmp_path: Path) -> None:
    """Kill it as the kernel does that has no memory left; with captions it is one that keeps models."""
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4))) for n in (0, 4)]

    def once(plan: Plan) -> dict[str, Stage]:
        return {"decode": KilledOnce(flag=str(tmp_path / "killed"))}

    setup = Setup(recipe, files, stages=once)
    assert run_job(setup, tmp_path / "out", runner).failed == []
    assert (tmp_path / "killed").exists()
    run_job(setup, tmp_path / "one" / "out")
    assert written(tmp_path / "out") == written(tmp_path / "one" / "out")
    assert leftovers(tmp_path / "out") == []


def dangerous(plan: Plan) -> dict[str, Stage]:
    return {"decode": DangerousDecode()}


def test_an_image_that_kills_its_worker_is_found_and_skipped(runner: Runner, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(4), {2: KILLED}))
    outcome = run_job(Setup(KEEP_ALL, [tar], stages=dangerous), tmp_path / "out", runner)
    assert (outcome.failed, outcome.kept) == ([], 3)
    assert [row["unreadable"] for row in running.decisions(tmp_path / "out") if row["dropped_by"]] == ["decoder_crash"]


@dataclass(frozen=True)
class Counted:
    """A runner that keeps how often each item was asked for."""

    runner: Runner
    asked: list[Any]

    def map(self, task: Any, items: Any, needs: Needs) -> Iterator[Any]:
        given = list(items)
        self.asked.extend(getattr(item, "url", None) for item in given)
        return self.runner.map(task, given, needs)

    def counting(self, scratch: str, memory: int) -> Any:
        return self.runner.counting(scratch, memory)


def test_a_shard_that_always_fails_is_tried_three_times_and_reported(runner: Runner, tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4), {1: RAISE})) for n in (0, 4)]
    setup, asked = Setup(KEEP_ALL, files, stages=dangerous), []
    outcome = run_job(setup, tmp_path / "out", Counted(runner, asked))
    assert outcome.failed == [{"shard": "0.tar", "reason": "ZeroDivisionError: a bug of ours"}]
    assert asked.count(str(files[0])) == 1 + 3  # the scan, then three times the judge
    run_job(setup, tmp_path / "one" / "out", InProcess())
    assert written(tmp_path / "out") == written(tmp_path / "one" / "out")


def test_a_driver_killed_and_run_again_ends_in_the_same_bytes(
    cluster: Cluster, line: list[object], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    process = running.start(*line)
    assert running.wait_for(process, tmp_path / "out", "marks/*/judge-*/*.json", 2), "it ended before it could be killed"
    running.kill(process)
    done = running.curate(*line)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


@dataclass
class LosingANode:
    """Progress that ends a node when the first shard of a step is done: one that was there before the last, so it has work."""

    cluster: Cluster
    step: str
    now: str = ""
    lost: bool = False

    def start(self, name: str, total: int) -> None:
        self.now = name

    def advance(self, records: int) -> None:
        if self.now == self.step and not self.lost:
            self.lost = True
            self.cluster.stop(len(self.cluster.nodes) - 2)

    def warn(self, text: str) -> None:
        pass


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@ON_CLUSTERS
def test_a_node_that_is_lost_costs_no_attempt(
    cluster: Cluster, runner: Any, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    cluster.join()
    wait_until(lambda: runner.size("CPU") >= 2)  # a worker of it may be starting still
    asked: list[Any] = []
    losing = LosingANode(cluster, "judge")
    outcome = run_job(setup, tmp_path / "out", Counted(runner, asked), losing)
    assert losing.lost
    assert outcome.failed == []
    assert written(tmp_path / "out") == undisturbed
    assert {asked.count(str(path)) for path in setup.inputs} == {2}  # scan and judge, each asked for once
