"""Whole runs whose output, or input too, lies on a real S3 server: the bytes of a local run, whatever refuses or dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from curate import samples
from curate.driver.gc import collect
from curate.driver.merging import Merge
from curate.driver.removal import Removal, Selection
from curate.storage.backend import Remote, storage
from curate.storage.store import Store
from tests import running
from tests.growing import at_second_try, named_facts, one_run
from tests.proxy import Forwarding, proxy
from tests.running import RECIPE, InProcess, Setup, curate, end, manifest, run_job, start, written
from tests.s3 import download, upload
from tests.test_add import COUNTED, shards
from tests.test_merge import in_order
from tests.test_remove import DATE, same

SAME = ("shards", "index", "decisions", "thumbs")


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(RECIPE, sorted((demo / "pairs").glob("*.tar"))[:4], (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_job(setup, out)
    return out


def arguments(setup: Setup, inputs: list[object], out: str, folder: Path) -> list[object]:
    (folder / "recipe.yaml").write_text(setup.recipe)
    return ["run", folder / "recipe.yaml", *inputs, "--out", out, "--workers", 2, "--set", setup.overrides[0]]


def leftovers(out: Path) -> list[str]:
    """Return what a finished run must not leave, but for its lease."""
    return [name for name in running.leftovers(out) if not name.startswith(".lease")]


def test_an_output_on_s3_has_the_bytes_of_a_local_one(bucket: str, setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    command = arguments(setup, list(setup.inputs), f"{bucket}/out", tmp_path)
    done = curate(*command)
    assert (done.returncode, running.complaints(done)) == (0, "")
    assert f"{bucket}/out/shards" in done.stdout
    here = download(f"{bucket}/out", tmp_path / "here")
    assert written(here) == written(undisturbed)
    assert leftovers(here) == []
    assert (here / "report.html").is_file()
    again = curate(*command)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)


def test_an_input_on_s3_gives_the_same_tars(bucket: str, setup: Setup, undisturbed: Path, demo: Path, tmp_path: Path) -> None:
    for path in setup.inputs:
        (tmp_path / "in").mkdir(exist_ok=True)
        os.link(path, tmp_path / "in" / path.name)
    url = upload(tmp_path / "in", f"{bucket}/in")
    done = curate(*arguments(setup, [url], f"{bucket}/out", tmp_path))
    assert (done.returncode, running.complaints(done)) == (0, "")
    here = download(f"{bucket}/out", tmp_path / "here")
    expected = {name: digest for name, digest in written(undisturbed).items() if name.startswith(SAME)}
    assert {name: digest for name, digest in written(here).items() if name.startswith(SAME)} == expected


def test_an_output_on_s3_grows_and_shrinks_and_ends_as_one_run_on_a_disk(bucket: str, tmp_path: Path) -> None:
    setup = Setup(COUNTED, shards(tmp_path, [5, 3, 6]))
    beat, at, other, fresh = 0.2, f"{bucket}/grows", tmp_path / "other" / "out", tmp_path / "fresh" / "out"
    held, here = replace(setup, inputs=setup.inputs[:-1], beat=beat), InProcess()
    out, joined = Store(storage(at), beat=beat), Store(storage(f"{bucket}/joined"), beat=beat)
    run_job(replace(held, inputs=held.inputs[:1]), tmp_path / "out", at=at)
    added = replace(held, inputs=held.inputs[1:], into="add")
    assert at_second_try(lambda: run_job(added, tmp_path / "out", at=at), 15, Remote).failed == []
    stricter = replace(held, overrides=("caption_frequency.max_images=2",))
    assert at_second_try(lambda: run_job(stricter, tmp_path / "out", at=at), 15, Remote).failed == []
    gone = Selection(keys=[next(samples(at)).key])
    at_second_try(lambda: Removal(out, here).remove(gone, DATE), 9, Remote)
    last = download(at, tmp_path / "last")
    assert same(written(last), one_run(stricter, last, fresh)) and leftovers(last) == []
    run_job(replace(setup, inputs=setup.inputs[-1:]), other)
    at_second_try(Merge([storage(at), storage(other)], joined, here).merge, 9, Remote)
    both = download(joined.storage.root, tmp_path / "joined")
    assert in_order(both) == in_order(fresh, other) and leftovers(both) == []


def test_two_runs_write_to_one_store_of_facts_on_s3_at_once(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(COUNTED)
    tars = shards(tmp_path, [5, 3, 3, 6])  # six pictures have the first text, five the last
    limits = {"one": "caption_frequency.max_images=6", "two": "caption_frequency.max_images=5"}
    command = ["run", tmp_path / "recipe.yaml", *tars, "--facts", f"{bucket}/facts", "--workers", 1]
    both = [start(*command, "--out", f"{bucket}/{name}", "--set", limit) for name, limit in limits.items()]
    assert [end(process) for process in both] == ["", ""]
    before = named_facts(download(f"{bucket}/facts", tmp_path / "before"))
    collect(storage(f"{bucket}/facts"))
    one, two, facts = (download(f"{bucket}/{name}", tmp_path / name) for name in ("one", "two", "facts"))
    for out in (one, two):
        assert written(out) == one_run(Setup(COUNTED, tars, (limits[out.name],)), out, tmp_path / "alone" / "out")
    assert named_facts(facts) == before
    assert [leftovers(folder) for folder in (one, two, facts)] == [[], [], []]


# A server that refuses -----------------------------------------------------------------------------------------------


class Refusing(Forwarding):
    """Passes requests on, but for some: those are answered with an error, or the connection is cut."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number = next(self.server.numbers)
        if number % 29 == 3:
            self.send_error(503, "Slow Down")
            return
        if number % 31 == 5:
            self.send_error(500, "Internal Error")
            return
        if number % 37 == 7:  # as a time-out ends: no answer
            self.close_connection = True
            return
        self.forward(body)


@pytest.fixture
def refusing(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put a server that refuses between the tests and their bucket, and return the bucket's url."""
    with proxy(s3_server, Refusing) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield bucket


def test_a_store_that_refuses_now_and_then_costs_nothing(refusing: str, setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    done = curate(*arguments(setup, list(setup.inputs), f"{refusing}/out", tmp_path))
    assert (done.returncode, running.complaints(done)) == (0, "")
    here = download(f"{refusing}/out", tmp_path / "here")
    assert written(here) == written(undisturbed)
    assert leftovers(here) == []
    assert manifest(here)["failed_shards"] == []


# A driver that dies --------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from curate.runners.local.runner import LocalRunner
from tests.running import RECIPE, Setup, run_job

if __name__ == "__main__":
    out, recipes, sets, *tars = sys.argv[1:]
    setup = Setup(RECIPE, [Path(tar) for tar in tars], (sets,), beat=0.2)
    with LocalRunner(2) as runner:
        run_job(setup, Path(recipes) / "out", runner, at=out)
"""


@pytest.mark.parametrize("pattern", ["facts/base-*/*.json", "marks/*/judge-*/*.json", "marks/*/pack/*.json"])
def test_a_driver_killed_and_run_again_ends_in_the_same_bytes(
    pattern: str, bucket: str, setup: Setup, undisturbed: Path, tmp_path: Path
) -> None:
    from s3fs import S3FileSystem

    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, tmp_path / "driver.py", f"{bucket}/out", tmp_path, setup.overrides[0], *setup.inputs]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(list(map(str, command)), env=environment, start_new_session=True)
    store = S3FileSystem(use_listings_cache=False)
    while not store.glob(f"{bucket}/out/{pattern}"):
        assert process.poll() is None, "it ended before it could be killed"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    running.kill(process)
    again = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)
    assert (again.returncode, running.complaints(again)) == (0, "")
    here = download(f"{bucket}/out", tmp_path / "here")
    assert written(here) == written(undisturbed)
    assert leftovers(here) == []
