"""What a run needs is checked before anything of the input is read, by `plan` and `run` alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import curate
from curate.cli import main
from curate.core.contracts import Needs
from curate.core.counting import Counting
from curate.core.errors import CurateError, DiskFull
from curate.driver.preflight import check_room
from curate.storage.backend import storage
from tests.running import KEEP_ALL, make_tar, pairs


class Usage(NamedTuple):
    free: int


class Unused:
    """A runner of which nothing may be asked."""

    def map(self, task: Callable[[Any], Any], items: Iterable[Any], needs: Needs) -> Iterator[Any]:
        raise AssertionError("work has begun")

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        raise AssertionError("work has begun")


def refusals(tmp_path: Path, rules: str, *more: str) -> list[str]:
    """Return what `plan`, `run` and the Python API say of a recipe, which none may accept; no output is begun."""
    (tmp_path / "recipe.yaml").write_text(f"filters:\n{rules}")
    tar, told = make_tar(tmp_path / "in.tar", pairs(range(2))), []
    for name, rest in (("plan", []), ("run", ["--out", str(tmp_path / "out")])):
        done = CliRunner().invoke(main, [name, str(tmp_path / "recipe.yaml"), str(tar), *rest, *more])
        assert done.exit_code == 1, done.output
        assert not (tmp_path / "out").exists()
        told.append(done.stderr.splitlines()[-1])
    with pytest.raises(CurateError) as caught:
        curate.run(str(tmp_path / "recipe.yaml"), [str(tar)], tmp_path / "out", curate.Settings(runner=Unused()))
    assert not (tmp_path / "out").exists()
    return [*told, f"curate: {caught.value}"]


def test_an_evaluation_set_that_is_not_there(tmp_path: Path) -> None:
    for line in refusals(tmp_path, f"  eval_overlap: {{sets: [{tmp_path / 'none'}], method: hash}}\n"):
        assert line.startswith(f"curate: evaluation set {tmp_path / 'none'}: no such file or folder")


def test_a_block_list_that_is_not_there(tmp_path: Path) -> None:
    for line in refusals(tmp_path, f"  blocklist: {{lists: [{tmp_path / 'none.txt'}]}}\n"):
        assert line.startswith("curate: ") and "none.txt" in line


@pytest.mark.skipif(find_spec("open_clip") is None, reason="needs open_clip")
def test_weights_that_are_not_here_and_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for line in refusals(tmp_path, "  clip_similarity: {embedder: open_clip:ViT-B-16/laion2b_s34b_b88k}\n"):
        assert "open_clip:ViT-B-16/laion2b_s34b_b88k: its weights are not on this machine and cannot be fetched" in line


def test_the_disk_is_looked_at_through_the_api_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10))
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    tar = make_tar(tmp_path / "in.tar", pairs(range(2)))
    with pytest.raises(DiskFull, match="no space left"):
        curate.run(str(tmp_path / "recipe.yaml"), [str(tar)], tmp_path / "out", curate.Settings(runner=Unused()))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(3_000_000_000))
    out = storage(tmp_path / "not" / "there")
    assert check_room(out, 2_000_000_000) is None
    assert "what is kept must fit" in (check_room(out, 100_000_000_000) or "")
    with pytest.raises(DiskFull, match="no space left"):
        check_room(out, 1_000_000_000_000)
