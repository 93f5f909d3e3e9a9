"""Whatever is run, added, replaced, removed, merged and killed, an output ends in the bytes of one run over what should be there.

A merged output has the tars of its sources: it must be what merging runs into empty folders gives.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.growing import dying_after, one_run
from tests.running import Setup, decisions, leftovers, manifest, run_job, written
from tests.test_add import COUNTED, shards
from tests.test_merge import in_order, merge
from tests.test_remove import remove, same

RECORDS = [5, 3, 4, 6, 2]
THRESHOLDS = ("caption_words.min_words=2", "caption_words.min_words=5", "caption_frequency.max_images=7")


def contents(out: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what a merged output holds, but for the names of its sources."""
    about = {name: value for name, value in manifest(out).items() if name not in ("run", "merged_from")}
    return {name: digest for name, digest in written(out).items() if name != "manifest.json"}, about


def kept(out: Path) -> list[str]:
    """Return the keys, which are the numbers of pictures, of what tars hold."""
    return [row["key"] for row in decisions(out) if row["sample_key"]]


class Output(RuleBasedStateMachine):
    """An output, and what should be in it: shards in the order in which they came, a threshold, and what was removed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="curate-growing-"))
        self.tars = shards(self.folder, RECORDS)
        self.out, self.other, self.fresh = (self.folder / name / "out" for name in ("one", "other", "fresh"))
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

    @rule(
        duplicates=st.sampled_from(["keep", "drop"]),
        record=st.integers(0, RECORDS[0] - 1),
        kills=st.lists(st.integers(0, 60), max_size=1),
    )
    def merged(self, duplicates: Literal["keep", "drop"], record: int, kills: list[int]) -> None:
        merged, wanted, key = self.folder / "merged", self.folder / "wanted", [f"{record:04d}"]
        if not self.other.exists():  # pictures and texts of which this output has some
            assert run_job(Setup(COUNTED, shards(self.folder / "in", [2, 7])), self.other).failed == []
        other = written(self.other)
        for changes in kills:
            with dying_after(changes):
                merge([self.out, self.other], merged, duplicates)
        merge([self.out, self.other], merged, duplicates)
        merge([self.fresh, self.other], wanted, duplicates)
        assert contents(merged) == contents(wanted) and leftovers(merged) == []
        assert self.removed or duplicates == "drop" or in_order(merged) == in_order(self.fresh, self.other)
        keys = kept(merged)
        assert not self.removed & set(keys) and (duplicates == "keep" or len(keys) == len(set(keys)))
        for changes in kills:
            with dying_after(changes):
                remove(merged, keys=key)
        remove(merged, keys=key)
        remove(self.fresh, keys=key)
        assert key[0] not in kept(merged)
        shutil.rmtree(wanted)
        merge([self.fresh, self.other], wanted, duplicates)
        assert in_order(merged) == in_order(wanted) and leftovers(merged) == []
        assert written(self.other) == other
        for folder in (merged, wanted):
            shutil.rmtree(folder)

    @invariant()
    def it_has_the_bytes_of_one_run(self) -> None:
        if not self.held:
            return
        wanted = one_run(Setup(COUNTED, self.held, (self.threshold,)), self.out, self.fresh)
        assert same(written(self.out), wanted)
        assert leftovers(self.out) == []


TestOutput = Output.TestCase
TestOutput.settings = settings(
    max_examples=6,
    stateful_step_count=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],  # looking for a shorter failure would take longer than the test may
    report_multiple_bugs=False,
)
