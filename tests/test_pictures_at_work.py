"""Pictures for captioner and matcher in whole runs: hostile images cost themselves alone, and one thread reads the shard."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core import watchdog
from curate.core.contracts import Runner, Shard, Stage
from curate.driver.options import RunOptions
from curate.driver.progress import Outcome
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.images import resize as pictures
from curate.images.picture import DecodeRequest
from curate.images.resize import resized
from curate.passes import evaluation as walk
from curate.passes.isolate import FindCrashes, crashing_rows
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning.plan import Plan
from curate.runners.local.runner import LocalRunner
from curate.sources.listing import list_shards
from curate.sources.opening import OpenShard, open_shard
from curate.stages.decode import DecodeStage
from curate.storage.backend import storage
from curate.storage.json_files import write_json
from curate.storage.store import Store
from tests import running
from tests.dangerous import HANG, SEGFAULT
from tests.running import KEEP_ALL, InProcess, Setup, leftovers, make_tar, pairs, run_job, written

HOLD = b"please-hold-the-interpreter"
CAPTIONS = "captions: {model: fake, min_tokens: 3, per_image: 2}\n"
CAPFILT = CAPTIONS + "filters:\n  unreadable:\n  caption_match: {matcher: fake}\noutput: {samples_per_shard: 9}\n"
EARLY = CAPFILT.replace("  unreadable:\n", "").replace("output", "  unreadable:\noutput")


@dataclass(frozen=True)
class DangerousInColour(DecodeStage):
    """DecodeStage; a process that is handed it, a worker's or a suspect's, dies or hangs at pictures of marked images."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        pictures.resized = dangerous


def dangerous(want: DecodeRequest) -> Any:
    if SEGFAULT in want.data:
        os.kill(os.getpid(), signal.SIGSEGV)
    while HANG in want.data:
        pass
    if HOLD in want.data:
        ctypes.PyDLL(None).sleep(3600)
    return resized(want)


def in_colour(plan: Plan) -> dict[str, Stage]:
    return {"decode": DangerousInColour()}


def run_on(gpus: int, setup: Setup, out: Path, runner: Runner) -> Outcome:
    """Run a job in one pass, or with a pass for GPUs in which three threads decode."""
    file = out.parent / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(setup.recipe)
    plan, _ = resolve(planning.plan(recipes.load(str(file), setup.overrides)), Path(os.environ["CURATE_CACHE"]))
    shards = list_shards([str(path) for path in setup.inputs], {})
    options = RunOptions(gpus=gpus, threads=3, row_seconds=setup.row_seconds)
    return Run(plan.with_stages(setup.stages(plan)), shards, Store(storage(out)), runner, options).run()


# Images that kill ----------------------------------------------------------------------------------------------------

DEADLY = {2: SEGFAULT, 9: HANG, 15: HOLD}
REASONS = {2: "decoder_crash", 9: "timeout", 15: "timeout"}


def unreadable(out: Path) -> dict[int, str]:
    """Return why records were dropped as unreadable."""
    found = [row for row in running.decisions(out) if not row["text_no"]]
    assert [int(row["key"]) for row in found] == list(range(20))
    return {int(row["key"]): row["unreadable"] for row in found if row["dropped_by"] == "unreadable"}


def test_images_that_kill_or_hang_where_pictures_are_made_are_found_and_skipped(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(20), DEADLY))
    setup = Setup(CAPFILT, [tar], stages=in_colour, row_seconds=1.0)
    for name, gpus in (("one", 0), ("gpu", 1)):
        with LocalRunner(1, gpus) as runner:
            outcome = run_on(gpus, setup, tmp_path / name / "out", runner)
        assert (outcome.failed, outcome.partial, outcome.records) == ([], [], 20)
        assert crashing_rows(Store(storage(tmp_path / name / "out")), list_shards([str(tar)], {})[0]) == REASONS
        assert leftovers(tmp_path / name / "out") == []
    assert unreadable(tmp_path / "gpu" / "out") == REASONS
    captioned = {int(row["key"]) for row in running.decisions(tmp_path / "gpu" / "out") if row["text_no"]}
    assert captioned == set(range(20)) - REASONS.keys()
    assert written(tmp_path / "one" / "out") == written(tmp_path / "gpu" / "out")


def test_what_kills_in_colour_is_dropped_also_where_its_grey_decode_is_in_the_store(tmp_path: Path) -> None:
    setup = Setup(CAPFILT, [make_tar(tmp_path / "0.tar", pairs(range(20)))])
    run_job(replace(setup, recipe=KEEP_ALL), tmp_path / "out")
    [shard] = list_shards([str(setup.inputs[0])], {})
    write_json(tmp_path / "out" / "facts" / "crashing_rows" / f"{shard.fingerprint}.json", {"4": "timeout"})
    run_job(setup, tmp_path / "out")
    assert unreadable(tmp_path / "out") == {4: "timeout"}
    [row] = [row for row in running.decisions(tmp_path / "out") if int(row["key"]) == 4]
    assert row["text_no"] == 0


def test_what_kills_only_as_a_picture_is_found_where_pictures_are_made(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(2), {0: SEGFAULT}))
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    store, [shard] = Store(storage(tmp_path / "out")), list_shards([str(tar)], {})
    base = next((tmp_path / "out" / "facts").glob("base-*")).name
    for sides, found in (((), {}), ((32,), {0: "decoder_crash"})):
        FindCrashes(store, base, DangerousInColour(), sides, 5.0)(shard)
        assert crashing_rows(store, shard) == found


def test_the_row_that_is_being_decoded_is_on_record(tmp_path: Path) -> None:
    path = tmp_path / "row"
    with watchdog.noting(path):
        with watchdog.row(7):
            assert watchdog.inside(path) == 7
        assert watchdog.inside(path) is None


STUCK = """
import threading, time
from pathlib import Path
from curate.core import watchdog

def stuck():
    with watchdog.row(7):
        time.sleep(60)

with watchdog.watching(0.5):
    with watchdog.row(6):
        threading.Thread(target=stuck).start()
        time.sleep(0.1)
    while True:
        with watchdog.row(8):
            time.sleep(0.01)
"""


def test_the_time_of_one_row_goes_on_while_others_come_and_go(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", STUCK], cwd=tmp_path, env=environment, timeout=30)
    assert done.returncode == -signal.SIGALRM


# One thread reads ----------------------------------------------------------------------------------------------------

ROWS = range(1100)  # of which IMAGE_ROWS are a chunk


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the same records as JSON lines with base64 in them, and as parquet with small row groups."""
    folder = tmp_path_factory.mktemp("tables")
    images = [running.jpeg(seed, (64, 48)) for seed in ROWS]
    texts = [f"a picture of thing number {seed}" for seed in ROWS]
    lines = [{"image_base64": base64.b64encode(image).decode(), "text": text} for image, text in zip(images, texts, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(pa.table({"image": images, "text": texts}), folder / "rows.parquet", row_group_size=100)
    return {"jsonl": folder / "rows.jsonl", "parquet": folder / "rows.parquet"}


@dataclass(frozen=True)
class Overheard:
    """An open shard that notes which thread takes each image."""

    opened: OpenShard
    heard: list[int]

    def read(self) -> Iterator[Any]:
        return self.opened.read()

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        for image in self.opened.images(rows):
            self.heard.append(threading.get_ident())
            yield image


def overhear(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the threads that will read images for verdicts and thumbnails, as they do."""
    heard: list[int] = []

    @contextmanager
    def opening(store: Store, shard: Shard) -> Iterator[Overheard]:
        with open_shard(shard) as opened:
            yield Overheard(opened, heard)

    monkeypatch.setattr(walk, "open_images", opening)
    return heard


EVERYTHING = EARLY.replace("  unreadable:\n", "  clip_similarity: {embedder: fake, at_least: -0.99}\n  unreadable:\n")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("recipe", [EARLY, EVERYTHING, CAPFILT], ids=["models first", "pixels after models", "usual order"])
def test_one_thread_reads_the_shard_until_thumbnails_are_made(
    kind: str, recipe: str, tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = overhear(monkeypatch)
    outcome = run_job(Setup(recipe, [tables[kind]]), tmp_path / "out")
    assert (outcome.failed, outcome.records) == ([], len(ROWS))
    here = [thread == threading.get_ident() for thread, _ in groupby(heard)]
    assert here == [False, True]
    assert heard.count(heard[0]) >= len(ROWS)


def evidence(out: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return what was measured of every text, which no order of filters changes."""
    names = ("text", "caption_match", "unreadable", "not_evaluated")
    return {(row["key"], row["text_no"]): tuple(row.get(name) for name in names) for row in running.decisions(out)}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_models_before_the_decoder_see_the_same_pictures(kind: str, tables: dict[str, Path], tmp_path: Path) -> None:
    for name, gpus, recipe in (("usual", 0, CAPFILT), ("one", 0, EARLY), ("gpu", 1, EARLY)):
        assert run_on(gpus, Setup(recipe, [tables[kind]]), tmp_path / name / "out", InProcess()).failed == []
    assert written(tmp_path / "one" / "out") == written(tmp_path / "gpu" / "out")
    assert evidence(tmp_path / "usual" / "out") == evidence(tmp_path / "one" / "out")
