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
from curate.driver.removal import Removal, Selection
from curate.storage.backend import storage
from curate.storage.store import Store
from tests import running
from tests.proxy import Forwarding, proxy
from tests.running import RECIPE, Setup, curate, manifest, run_job, written
from tests.s3 import download, upload

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
    assert (done.returncode, done.stderr) == (0, "")
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
    assert (done.returncode, done.stderr) == (0, "")
    here = download(f"{bucket}/out", tmp_path / "here")
    expected = {name: digest for name, digest in written(undisturbed).items() if name.startswith(SAME)}
    assert {name: digest for name, digest in written(here).items() if name.startswith(SAME)} == expected


def test_an_output_on_s3_grows_and_shrinks_as_on_a_disk(bucket: str, setup: Setup, tmp_path: Path) -> None:
    for out, at in ((tmp_path / "disk" / "out", None), (tmp_path / "s3" / "out", f"{bucket}/grows")):
        run_job(replace(setup, inputs=setup.inputs[:1]), out, at=at)
        run_job(replace(setup, inputs=setup.inputs[1:], into="add"), out, at=at)
        key = next(samples(at or out)).key
        assert Removal(Store(storage(at or out)), running.InProcess()).remove(Selection(keys=[key]), "2026-11-27").number == 1
    here = download(f"{bucket}/grows", tmp_path / "here")
    assert written(here) == written(tmp_path / "disk" / "out")
    assert leftovers(here) == []


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
    assert (done.returncode, done.stderr) == (0, "")
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
    assert (again.returncode, again.stderr) == (0, "")
    here = download(f"{bucket}/out", tmp_path / "here")
    assert written(here) == written(undisturbed)
    assert leftovers(here) == []
