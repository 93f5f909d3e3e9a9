"""The same bytes on every runner as in one process, on real clusters of two nodes, Ray's and Spark's; and what runners promise.

Each engine's tests need its extra, and Spark's need Java.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.core.contracts import Needs, Runner, Shard, TaskDied
from curate.counts.first_seen import FirstImage, FirstPair
from curate.counts.images_per_text import ImagesPerText
from curate.counts.merge import Engine, merge
from curate.counts.ngrams import RarestNgram
from curate.counts.texts_per_image import TextsPerImage
from curate.driver.extract import Extraction
from curate.driver.gc import collect
from curate.driver.merging import Merge
from curate.driver.removal import Removal, Selection
from curate.sources.listing import list_shards
from curate.storage.backend import storage
from curate.storage.store import Store
from tests import outside_counts, running, test_capfilt, test_fetch_run, test_parquet_output, test_plugins, test_several_texts
from tests.archives import site
from tests.clusters import ROOT, Cluster, RayCluster, SparkCluster, spark_home
from tests.dangerous import called, full, worker_of
from tests.engines import ON_CLUSTERS, ON_RAY, ON_SPARK
from tests.growing import at_second_try, named_facts, one_run
from tests.running import InProcess, Setup, leftovers, run_job, written
from tests.s3 import download
from tests.test_add import COUNTED, shards
from tests.test_counts import Record, first_shards, merged
from tests.test_merge import in_order
from tests.test_remove import DATE, same
from tests.webserver import needs_nginx, nginx

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]  # the engines' own warnings are not ours to mend

AHEAD = {"local": 20, "ray": 20, "spark": 1000}  # items that may be taken before an answer is asked for


# The same bytes ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_bytes_of_one_machine(
    cluster: Cluster, line: list[object], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    done = running.curate(*line)
    assert done.returncode == 0, done.stderr
    assert running.complaints(done) == ""
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


def test_a_plugin_outside_the_package_writes_the_bytes_of_one_machine(runner: Runner, demo: Path, tmp_path: Path) -> None:
    shutil.copy(test_plugins.SHARPNESS, tmp_path / "sharpness.py")  # on the driver's machine alone
    sharp = Setup(test_plugins.RECIPE, sorted((demo / "pairs").glob("*.tar")))
    alone, there = tmp_path / "alone", tmp_path / "there"
    run_job(sharp, alone)
    outcome = run_job(sharp, there, runner)
    assert (outcome.failed, outcome.partial) == ([], [])
    assert written(there) == written(alone)
    assert any(row["dropped_by"] == "sharpness" for row in running.decisions(there))


def test_several_texts_and_further_fields_have_the_bytes_of_one_machine(runner: Runner, tmp_path: Path) -> None:
    setup = Setup(test_several_texts.WORDS, test_several_texts.tars_with_fields(tmp_path))
    run_job(setup, tmp_path / "alone")
    outcome = run_job(setup, tmp_path / "there", runner)
    assert (outcome.failed, outcome.partial) == ([], [])
    assert written(tmp_path / "there") == written(tmp_path / "alone")


def test_parquet_files_of_samples_have_the_bytes_of_one_machine(runner: Runner, tmp_path: Path) -> None:
    setup = Setup(test_parquet_output.RECIPE, test_parquet_output.given(tmp_path / "in"))
    run_job(setup, tmp_path / "alone")
    outcome = run_job(setup, tmp_path / "there", runner)
    assert (outcome.failed, outcome.partial) == ([], [])
    assert written(tmp_path / "there") == written(tmp_path / "alone")


def test_an_output_on_s3_has_the_bytes_of_one_machine(
    cluster: Cluster, line: list[object], undisturbed: dict[str, str], bucket: str, tmp_path: Path
) -> None:
    line[line.index("--out") + 1] = f"{bucket}/out"
    done = running.curate(*line)
    assert (done.returncode, running.complaints(done)) == (0, "")
    assert written(download(f"{bucket}/out", tmp_path / "here")) == undisturbed


@ON_RAY
def test_a_client_writes_the_bytes_of_one_machine(
    cluster: RayCluster, line: list[object], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    done = running.curate(*line, "--address", cluster.client)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == undisturbed
    assert leftovers(tmp_path / "out") == []


@ON_RAY
def test_a_ray_job_needs_no_more_than_the_command(
    cluster: RayCluster, line: list[object], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    submit = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "job", "submit", "--address", cluster.jobs]
    environment = {name: value for name, value in cluster.environment().items() if name != "RAY_ADDRESS"}
    done = run_as([*submit, "--", *running.command(*line)], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(tmp_path / "out") == undisturbed


@ON_SPARK
def test_a_spark_application_needs_no_more_than_the_command(
    cluster: SparkCluster, line: list[object], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    submit = [f"{spark_home()}/bin/spark-submit", f"{ROOT}/jobs/spark/main.py"]
    done = run_as([*submit, *map(str, line)], {**cluster.environment(), "PYSPARK_PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(tmp_path / "out") == undisturbed


def run_as(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_passes_with_models_write_the_bytes_of_one_machine(runner: Runner, setup: Setup, tmp_path: Path) -> None:
    captions = replace(setup, recipe=test_capfilt.RECIPE)
    run_job(captions, tmp_path / "one" / "out")
    run_job(captions, tmp_path / "two" / "out", runner)
    assert written(tmp_path / "two" / "out") == written(tmp_path / "one" / "out")


def test_an_output_that_grows_and_shrinks_ends_as_one_run_on_one_machine(runner: Runner, tmp_path: Path) -> None:
    setup = Setup(COUNTED, shards(tmp_path, [5, 3, 3, 6]))
    out, other, joined, fresh = (tmp_path / name / "out" for name in ("out", "other", "joined", "fresh"))
    held = replace(setup, inputs=setup.inputs[:-1])
    run_job(replace(held, inputs=held.inputs[:1]), out, runner)
    added = replace(held, inputs=held.inputs[1:], into="add")
    assert at_second_try(lambda: run_job(added, out, runner), 6).failed == []
    stricter = replace(held, overrides=("caption_frequency.max_images=3",))
    assert at_second_try(lambda: run_job(stricter, out, runner), 6).failed == []
    gone = Selection(keys=[next(row["key"] for row in running.decisions(out) if row["sample_key"])])
    at_second_try(lambda: Removal(Store(storage(out)), runner).remove(gone, DATE), 4)
    assert same(written(out), one_run(stricter, out, fresh)) and leftovers(out) == []
    run_job(replace(setup, inputs=setup.inputs[-1:]), other)
    at_second_try(Merge([storage(out), storage(other)], Store(storage(joined)), runner).merge, 4)
    assert in_order(joined) == in_order(fresh, other) and leftovers(joined) == []


def test_two_runs_write_to_one_store_of_facts_at_once(
    runner: Runner, line: list[object], setup: Setup, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    facts, other = tmp_path / "facts", tmp_path / "other" / "out"
    stricter = replace(setup, overrides=(*setup.overrides, "caption_words.min_words=5"))
    process = running.start(*line, "--facts", facts)
    assert running.wait_for(process, tmp_path / "out", "output.json"), "it ended before the other began"
    assert run_job(stricter, other, runner, facts=facts).failed == []
    assert running.end(process) == ""
    before = named_facts(facts)
    collect(storage(facts))
    assert named_facts(facts) == before
    assert (written(tmp_path / "out"), written(other)) == (undisturbed, one_run(stricter, other, tmp_path / "alone" / "out"))
    assert [leftovers(folder) for folder in (tmp_path / "out", other, facts)] == [[], [], []]


class OfOtherTexts(TextsPerImage):
    fact = "other_texts"


class OfOtherImages(ImagesPerText):
    fact = "other_images"


class InVocabulary(RarestNgram):
    fact = "in_vocabulary"


COUNTS = [
    TextsPerImage(),
    OfOtherTexts(record_from=3),
    ImagesPerText(),
    OfOtherImages("content"),
    FirstPair(),
    FirstImage("content"),
    RarestNgram(3),
    InVocabulary(vocabulary=8),
]
"""Two of a kind, which share what an engine has computed; merged counts are told apart by their facts."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Serve pictures; return a run over tables of their urls."""
    folder = tmp_path_factory.mktemp("web")
    test_fetch_run.site(folder / "root")
    with nginx(folder / "root", folder / "work") as port:
        urls = test_fetch_run.tables(folder / "tables", port)
        settings = ("fetch.contact=https://example.org/crawl", "fetch.networks=127.0.0.0/8", "fetch.rate=0")
        yield Setup(test_fetch_run.RECIPE, [urls], settings)


@needs_nginx
def test_what_is_fetched_has_the_bytes_of_one_machine(runner: Runner, web: Setup, tmp_path: Path) -> None:
    run_job(web, tmp_path / "here")
    outcome = run_job(web, tmp_path / "out", runner)
    assert (outcome.kept, outcome.failed) == (252, [])
    assert written(tmp_path / "out") == written(tmp_path / "here") and leftovers(tmp_path / "out") == []


@needs_nginx
def test_a_driver_killed_while_images_are_fetched(engine: str, cluster: Cluster, web: Setup, tmp_path: Path) -> None:
    run_job(web, tmp_path / "here")
    (tmp_path / "recipe.yaml").write_text(web.recipe)
    settings = [part for override in web.overrides for part in ("--set", override)]
    line = ["run", tmp_path / "recipe.yaml", *web.inputs, "--out", tmp_path / "out", "--runner", engine, *settings]
    process = running.start(*line)
    running.wait_for(process, tmp_path / "out", test_fetch_run.PIECES)
    running.kill(process)
    done = running.curate(*line)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == written(tmp_path / "here") and leftovers(tmp_path / "out") == []


def test_archives_are_extracted_to_the_bytes_of_one_machine(runner: Runner, tmp_path: Path) -> None:
    for number in range(5):
        site(range(number, number + 4)).write(tmp_path / "crawl" / f"{number}.warc.gz")
    shards = list_shards([str(tmp_path / "crawl")], {})
    for name, over in (("here", InProcess()), ("out", runner)):
        done = Extraction(shards, Store(storage(tmp_path / name)), over).run()
        assert (done.failed, done.totals()["pages"]) == ([], 20)
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / name / "pairs").iterdir()} for name in ("here", "out"))
    assert here == there and len(here) == 5
    assert (tmp_path / "here" / "extract.json").read_bytes() == (tmp_path / "out" / "extract.json").read_bytes()


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
    store = Store(storage(tmp_path))
    local = merged(store, corpus(3, sizes), COUNTS)
    expected = {fact: contents(tmp_path / "counts" / lookup.name) for fact, lookup in local.items()}
    (tmp_path / "counts").rename(tmp_path / "of-duckdb")
    found = merge(store, COUNTS, first_shards(len(sizes)), Engine(runner, 200_000_000))
    assert {fact: contents(tmp_path / "counts" / lookup.name) for fact, lookup in found.items()} == expected
    assert any(files["keys.u64"] for files in expected.values()) == (len(sizes) > 1)


def test_a_count_from_outside_the_package_runs(runner: Runner, tmp_path: Path) -> None:
    inputs = outside_counts.tables(tmp_path / "in")
    for name, over in (("out", runner), ("here", InProcess())):
        outside_counts.run_with_counts(inputs, tmp_path / name, over)
    rows = [(row["host_images"], row["host_words"], row["dropped_by"]) for row in running.decisions(tmp_path / "out")]
    assert rows == list(outside_counts.expected())
    assert written(tmp_path / "out") == written(tmp_path / "here")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needs", [Needs(), Needs(models=True)])
def test_a_task_that_raises_tells_the_class_of_its_error(needs: Needs, runner: Runner) -> None:
    answers = list(runner.map(full, range(3), needs))
    deaths = [one for one in answers if isinstance(one, TaskDied)]
    assert [(one.item, one.error) for one in deaths] == [(1, "OutOfDeviceMemory")]
    assert sorted(one for one in answers if isinstance(one, int)) == [0, 2]


@pytest.mark.parametrize("needs", [Needs(), Needs(models=True)])
def test_work_is_named_by_its_pass_and_its_shard(needs: Needs, engine: str, runner: Any, tmp_path: Path) -> None:
    items = [Shard(number, f"/data/{number:05d}.tar", "tar", 1, "") for number in range(3)]
    answers = sorted(map(str, runner.map(called, items, needs)))
    if engine == "ray":
        assert answers == [f"called: {number:05d}.tar" for number in range(3)]
    elif engine == "spark":
        found = runner._context._jsc.sc().statusStore().jobsList(None)
        about = [found.apply(number).description() for number in range(found.size())]
        told = {one.get() for one in about if one.isDefined()}
        assert any(one.startswith("called: 00000.tar") for one in told), told


def test_models_stay_in_their_workers(runner: Runner) -> None:
    workers = {found[1] for found in runner.map(worker_of, range(40), Needs(models=True)) if not isinstance(found, TaskDied)}
    assert 1 <= len(workers) <= 3


def test_items_are_taken_as_workers_get_free(engine: str, runner: Runner) -> None:
    taken = itertools.count()
    answers = runner.map(worker_of, taken, Needs())
    for _ in range(20):
        next(answers)
    assert next(taken) < 20 + AHEAD[engine]
    answers.close()  # type: ignore[attr-defined]


@ON_CLUSTERS
def test_no_cluster_is_one_line(engine: str, cluster: Cluster, line: list[object], tmp_path: Path) -> None:
    nowhere = {"ray": ("--address", "127.0.0.1:1"), "spark": ("--master", "spark://127.0.0.1:1")}[engine]
    done: subprocess.CompletedProcess[str] = running.curate(*line, *nowhere)
    assert done.returncode == 1
    assert done.stderr.startswith("curate: no ")
    assert nowhere[1] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
