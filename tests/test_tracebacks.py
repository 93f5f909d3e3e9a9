"""What goes wrong outside of curate is one line, with an exit code and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from curate.cli import main
from tests.running import KEEP_ALL, command, curate, leftovers, make_tar, pairs, start, wait_for


@pytest.fixture
def job(tmp_path: Path) -> list[object]:
    """Return the arguments of a run of three small shards, without --out."""
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    for number in range(3):
        make_tar(tmp_path / "in" / f"{number}.tar", pairs(range(4 * number, 4 * number + 4)))
    return ["run", tmp_path / "recipe.yaml", tmp_path / "in", "--workers", 1]


@pytest.mark.parametrize("out", ["/proc/out", "FILE/out", "s3://nobucket/out"])
def test_an_output_that_cannot_be_is_one_line(
    job: list[object], out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if out.startswith("s3:"):
        pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "file").write_text("not a folder")
    place = out.replace("FILE", str(tmp_path / "file"))
    done = CliRunner().invoke(main, [*map(str, job), "--out", place])
    assert done.exit_code == 1
    assert done.stderr.startswith("curate: ") and done.stderr.count("\n") == 1, done.stderr


def test_an_input_in_a_bucket_without_credentials_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = CliRunner().invoke(main, ["stats", "s3://nobucket/x.tar"])
    assert done.exit_code == 1 and done.stderr.startswith("curate: ") and done.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr("curate.commands.recipes.recipes_command", broken)
    assert isinstance(CliRunner().invoke(main, ["recipes"]).exception, RuntimeError)


def group(leader: int) -> list[str]:
    """Return the processes of a group that are alive, without those whose parent has not taken their exit code."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in listed]
    return [line[2] for line in found if line[0] == str(leader) and not line[1].startswith("Z")]


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_says_how_to_go_on_and_leaves_no_worker(
    job: list[object], number: signal.Signals, code: int, word: str, whole_group: bool, tmp_path: Path
) -> None:
    process = start(*job, "--out", tmp_path / "out")
    assert wait_for(process, tmp_path / "out", "output.json")
    if whole_group:  # as a terminal and some schedulers send it: to the workers too, which may be starting
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, told = process.communicate(timeout=120)  # until nobody holds its standard error
    assert process.returncode == code, told
    assert told == f"curate: {word}; the same command goes on where it stopped\n"
    assert group(process.pid) == []
    again = curate(*job, "--out", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert leftovers(tmp_path / "out") == []


def test_a_reader_that_goes_is_no_error() -> None:
    with subprocess.Popen(command("filters"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 0
