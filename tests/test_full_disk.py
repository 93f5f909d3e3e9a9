"""A disk that is full, a real one: a small tmpfs, where the machine lets us mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import running
from tests.running import RECIPE, Setup, curate, leftovers, run_job, written

SIZES = ("400k", "2000k")  # one stops it in the scan, one where it judges or packs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_with_more_room_the_same_command_goes_on(disk: Path, demo: Path, tmp_path: Path) -> None:
    setup = Setup(RECIPE, sorted((demo / "pairs").glob("*.tar"))[:4], (f"eval_overlap.sets={demo / 'eval'}",))
    run_job(setup, tmp_path / "undisturbed" / "out")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = disk / "out"
    command = ["run", tmp_path / "recipe.yaml", *setup.inputs, "--out", out, "--workers", 2, "--set", setup.overrides[0]]
    for size in SIZES:
        resize(disk, size)
        done = curate(*command)
        assert done.returncode == 1, (size, done.stdout)
        [told] = [line for line in done.stderr.splitlines() if line]
        assert told.startswith("curate: no space left for "), told
        assert not (out / "manifest.json").exists()
    resize(disk, "100m")
    done = running.curate(*command)
    assert done.returncode == 0, done.stderr
    assert written(out) == written(tmp_path / "undisturbed" / "out")
    assert leftovers(out) == []
