"""How often work that always fails is tried: three times, and its shard alone is given up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from curate.core.contracts import Stage
from curate.planning.plan import Plan
from curate.runners.local.runner import LocalRunner
from tests.dangerous import DeadlyLanguage, FaultyLanguage
from tests.running import KEEP_ALL, Setup, decisions, leftovers, make_tar, pairs, run_job

RECIPE = KEEP_ALL.replace("  unreadable:", "  unreadable:\n  sql: {where: language is not null}")  # a stage that no image kills


@dataclass(frozen=True)
class Failing:
    """Stages of the plan that fail at one text of the second file."""

    kind: type[DeadlyLanguage | FaultyLanguage]
    folder: Path

    def __call__(self, plan: Plan) -> dict[str, Stage]:
        return {"language": self.kind(text="a picture of thing number 5", folder=str(self.folder))}


@pytest.mark.parametrize(("kind", "reason"), [(DeadlyLanguage, "its worker died"), (FaultyLanguage, "a bug of ours")])
def test_a_shard_that_always_fails_is_tried_three_times(
    kind: type[DeadlyLanguage | FaultyLanguage], reason: str, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 2))) for n in (0, 4, 8)]
    with LocalRunner(1) as runner:
        outcome = run_job(Setup(RECIPE, files, stages=Failing(kind, tries)), tmp_path / "out", runner)
    assert len(list(tries.iterdir())) == 3
    assert [item["shard"] for item in outcome.failed] == ["4.tar"]
    assert reason in outcome.failed[0]["reason"]
    assert [int(row["key"]) for row in decisions(tmp_path / "out")] == [0, 1, 8, 9]
    assert leftovers(tmp_path / "out") == []
