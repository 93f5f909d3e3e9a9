"""A real Ray cluster of two nodes: the bytes of a run on one machine, whatever dies. Needs the extra `ray`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.contracts import CorpusCount, Needs, Runner, Stage, TaskDied
from curate.counts import Engine, merge
from curate.plan import Plan
from curate.store import Store
from tests import running, test_capfilt
from tests.clusters import RayCluster, ray_cluster
from tests.dangerous import KILLED, RAISE, DangerousDecode, KilledOnce, full, worker_of
from tests.running import KEEP_ALL, RECIPE, InProcess, Setup, leftovers, make_tar, pairs, run_job, written
from tests.test_counts import Record, merged

# asked by name: Ray reads the cluster's token when it is imported
missing = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
pytestmark = [missing, pytest.mark.cluster, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours to mend


@pytest.fixture(scope="module")
def cluster(curate_cache: Path) -> Iterator[RayCluster]:
    with ray_cluster() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment().items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def runner(cluster: RayCluster) -> Iterator[Runner]:
    from curate.runners.ray import RayRunner

    with RayRunner() as found:
        yield found


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(RECIPE, sorted((demo / "pairs").glob("*.tar")), (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a run in this process writes that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_job(setup, out)
    return written(out)


def arguments(setup: Setup, folder: Path) -> list[object]:
    (folder / "recipe.yaml").write_text(setup.recipe)
    settings = [part for override in setup.overrides for part in ("--set", override)]
    return ["run", folder / "recipe.yaml", *setup.inputs, "--out", folder / "out", "--runner", "ray", *settings]


# The same bytes ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_bytes_of_one_machine(
    cluster: RayCluster, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    done = running.curate(*arguments(setup, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


def test_a_client_writes_the_bytes_of_one_machine(
    cluster: RayCluster, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    done = running.curate(*arguments(setup, tmp_path), "--address", cluster.client)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


def test_a_submitted_job_needs_no_more_than_the_command(
    cluster: RayCluster, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    submit = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "job", "submit", "--address", cluster.jobs]
    line = [*submit, "--", *running.command(*arguments(setup, tmp_path))]
    environment = {name: value for name, value in cluster.environment().items() if name != "RAY_ADDRESS"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(tmp_path / "out") == undisturbed


def test_passes_with_models_write_the_bytes_of_one_machine(runner: Runner, setup: Setup, tmp_path: Path) -> None:
    captions = replace(setup, recipe=test_capfilt.RECIPE)
    run_job(captions, tmp_path / "one" / "out")
    run_job(captions, tmp_path / "two" / "out", runner)
    assert written(tmp_path / "two" / "out") == written(tmp_path / "one" / "out")


COUNTS = [
    *(CorpusCount(f"texts-{floor}", "texts_per_image", "url", floor) for floor in (2, 3)),
    *(CorpusCount(f"images-{identity}", "images_per_text", identity) for identity in ("url", "content")),  # type: ignore[arg-type]
    CorpusCount("first", "first_pair"),
    CorpusCount("image", "first_image", "content"),
    CorpusCount("grams", "ngrams", record_from=3),
    CorpusCount("words", "ngrams", vocabulary=8),
]


def corpus(seed: int, sizes: tuple[int, ...]) -> list[list[Record]]:
    draw = np.random.default_rng(seed)
    words = ["a", "b", "c", "D", "É", "ß"]

    def record() -> Record:
        image, url, text = draw.integers(0, 6, 3).tolist()
        said = None if text == 5 else " ".join(draw.choice(words, text))
        return None if image == 5 else image, None if url > 2 else f"u{url}", said

    return [[record() for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("sizes", [(30, 0, 50, 20), (0,)])
def test_counts_are_those_of_duckdb_to_the_byte(sizes: tuple[int, ...], runner: Runner, tmp_path: Path) -> None:
    store = Store(tmp_path)
    local = merged(store, corpus(3, sizes), COUNTS)
    expected = {fact: contents(lookup.folder) for fact, lookup in local.items()}
    (tmp_path / "counts").rename(tmp_path / "of-duckdb")
    shards = [(shard, f"f{shard}") for shard in range(len(sizes))]
    found = merge(store, COUNTS, shards, Engine(runner, 0))
    assert {fact: contents(lookup.folder) for fact, lookup in found.items()} == expected
    assert any(files["keys.u64"] for files in expected.values()) == (len(sizes) > 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_worker_killed_in_the_middle_of_a_shard_changes_nothing(runner: Runner, tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4))) for n in (0, 4)]

    def once(plan: Plan) -> dict[str, Stage]:
        return {"decode": KilledOnce(flag=str(tmp_path / "killed"))}

    setup = Setup(KEEP_ALL, files, stages=once)
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
    cluster: RayCluster, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    command = arguments(setup, tmp_path)
    process = running.start(*command)
    assert running.wait_for(process, tmp_path / "out", "marks/*/judge-*.json", 2), "it ended before it could be killed"
    running.kill(process)
    done = running.curate(*command)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


@dataclass
class LosingANode:
    """Progress that ends a node when the first shard of a step is done."""

    cluster: RayCluster
    step: str
    now: str = ""
    lost: bool = False

    def start(self, name: str, total: int) -> None:
        self.now = name

    def advance(self, records: int) -> None:
        if self.now == self.step and not self.lost:
            self.lost = True
            self.cluster.stop(len(self.cluster.nodes) - 1)

    def warn(self, text: str) -> None:
        pass


def test_a_node_that_is_lost_costs_no_attempt(
    cluster: RayCluster, runner: Runner, setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    cluster.join()
    asked: list[Any] = []
    losing = LosingANode(cluster, "judge")
    outcome = run_job(setup, tmp_path / "out", Counted(runner, asked), losing)
    assert losing.lost
    assert outcome.failed == []
    assert written(tmp_path / "out") == undisturbed
    assert {asked.count(str(path)) for path in setup.inputs} == {2}  # scan and judge, each asked for once


# The contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needs", [Needs(), Needs(models=True)])
def test_a_task_that_raises_tells_the_class_of_its_error(needs: Needs, runner: Runner) -> None:
    answers = list(runner.map(full, range(3), needs))
    deaths = [one for one in answers if isinstance(one, TaskDied)]
    assert [(one.item, one.error) for one in deaths] == [(1, "OutOfDeviceMemory")]
    assert sorted(one for one in answers if isinstance(one, int)) == [0, 2]


def test_models_stay_in_their_workers(runner: Runner) -> None:
    workers = {found[1] for found in runner.map(worker_of, range(40), Needs(models=True)) if not isinstance(found, TaskDied)}
    assert 1 <= len(workers) <= 3


def test_items_are_taken_as_workers_get_free(runner: Runner) -> None:
    taken = itertools.count()
    answers = runner.map(worker_of, taken, Needs())
    for _ in range(20):
        next(answers)
    assert next(taken) < 40
    answers.close()  # type: ignore[attr-defined]


def test_no_cluster_is_one_line(setup: Setup, tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[str] = running.curate(*arguments(setup, tmp_path), "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("curate: no Ray cluster at 127.0.0.1:1")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
