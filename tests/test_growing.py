"""Whatever is run, added, replaced, removed and killed, an output ends in the bytes of one run over what should be there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from curate.storage.backend import Disk
from tests.running import Setup, leftovers, run_job, written
from tests.test_add import COUNTED, shards
from tests.test_remove import remove, same

RECORDS = [5, 3, 4, 6, 2]
THRESHOLDS = ("caption_words.min_words=2", "caption_words.min_words=5", "caption_frequency.max_images=7")


class Killed(BaseException):
    """What a kill does to a process, for a test."""


@contextmanager
def dying_after(changes: int) -> Iterator[None]:
    """Kill this process, as it were, at one of its changes to a disk."""
    left, writing, move = [changes], Disk.writing, Disk.move

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def counted_writing(self: Disk, name: str) -> Any:
        count()
        return writing(self, name)

    def counted_move(self: Disk, old: str, new: str) -> None:
        count()
        move(self, old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "writing", counted_writing)
        patch.setattr(Disk, "move", counted_move)
        with suppress(Killed):
            yield


class Output(RuleBasedStateMachine):
    """An output, and what should be in it: shards in the order in which they came, a threshold, and what was removed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="curate-growing-"))
        self.tars = shards(self.folder, RECORDS)
        self.out = self.folder / "out"
        self.held: list[Path] = []
        self.threshold = THRESHOLDS[0]
        self.removed: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, inputs: list[Path], into: Any, kills: list[int]) -> None:
        setup = Setup(COUNTED, inputs, (self.threshold,), into=into)
        for changes in kills:
            with dying_after(changes):
                run_job(setup, self.out)
        assert run_job(setup, self.out).failed == []

    @initialize(count=st.integers(1, 3), kills=st.lists(st.integers(0, 40), max_size=2))
    def first(self, count: int, kills: list[int]) -> None:
        self.held = self.tars[:count]
        self._run(self.held, "same", kills)

    @precondition(lambda self: len(self.held) < len(self.tars))
    @rule(kills=st.lists(st.integers(0, 40), max_size=2))
    def add(self, kills: list[int]) -> None:
        new = next(tar for tar in self.tars if tar not in self.held)
        self._run([new], "add", kills)
        self.held = [*self.held, new]

    @rule(threshold=st.sampled_from(THRESHOLDS), kills=st.lists(st.integers(0, 40), max_size=2))
    def replace(self, threshold: str, kills: list[int]) -> None:
        self.threshold = threshold
        self._run(self.held, "replace", kills)

    @rule(record=st.integers(0, sum(RECORDS[:3]) - 1), kills=st.lists(st.integers(0, 25), max_size=2))
    def take_out(self, record: int, kills: list[int]) -> None:
        if record < sum(RECORDS[: len(self.held)]):
            for changes in kills:
                with dying_after(changes):
                    remove(self.out, keys=[f"{record:04d}"])
            remove(self.out, keys=[f"{record:04d}"])
            self.removed.add(f"{record:04d}")

    @invariant()
    def it_has_the_bytes_of_one_run(self) -> None:
        if not self.held:
            return
        fresh = self.folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        if (self.out / "removed").is_dir():
            fresh.mkdir()
            (fresh / ".lock").touch()
            shutil.copytree(self.out / "removed", fresh / "removed")
        assert run_job(Setup(COUNTED, self.held, (self.threshold,)), fresh).failed == []
        assert same(written(self.out), written(fresh))
        assert leftovers(self.out) == []


TestOutput = Output.TestCase
TestOutput.settings = settings(
    max_examples=6, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
