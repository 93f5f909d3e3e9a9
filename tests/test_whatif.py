"""what-if against real runs: ten random changes of thresholds, each asked of recorded facts and then run for itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from curate.report.what_if import WhatIf, what_if
from curate.storage.backend import storage
from tests import running
from tests.running import manifest

CHANGES = 10
RANGES: dict[str, tuple[float, float]] = {
    "image_reuse.max_texts": (2, 40),
    "caption_frequency.max_images": (2, 16),
    "caption_words.max_words": (6, 40),
    "caption_words.min_words": (1, 5),
    "min_side.larger_than": (100, 500),
    "aspect_ratio.below": (1.2, 4.0),
    "eval_overlap.radius": (2, 16),
}
"""Thresholds of the recipe and where a person would move them; whole numbers but for the aspect ratio."""


def change(seed: int) -> tuple[str, ...]:
    """Return two or three random overrides."""
    draw = random.Random(seed)
    chosen = draw.sample(sorted(RANGES), draw.randint(2, 3))
    digits = {name: 2 if name == "aspect_ratio.below" else 0 for name in chosen}
    return tuple(f"{name}={draw.uniform(*RANGES[name]):.{digits[name]}f}" for name in chosen)


@pytest.fixture(scope="module")
def once(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return OUT of the demo's pairs, run with the recipe's own thresholds."""
    out = tmp_path_factory.mktemp("whatif") / "out"
    running.run_job(setup(demo), out)
    return out


def setup(demo: Path, overrides: tuple[str, ...] = ()) -> running.Setup:
    return running.Setup(running.RECIPE, [demo / "pairs"], (f"eval_overlap.sets={demo / 'eval'}", *overrides))


def dropped(answer: WhatIf) -> dict[str, int]:
    return {line.filter: line.dropped for line in answer.filters}


@pytest.mark.parametrize("seed", range(CHANGES))
def test_a_random_change_gives_what_a_real_run_gives(once: Path, demo: Path, tmp_path: Path, seed: int) -> None:
    overrides = change(seed)
    asked = what_if(storage(once), manifest(once), overrides)
    running.run_job(setup(demo, overrides), tmp_path / "out")
    real = manifest(tmp_path / "out")
    assert asked.at_least <= real["kept"] <= asked.kept
    if not any(line.unknown for line in asked.filters):
        assert asked.at_least == asked.kept
        assert dropped(asked) == {line["filter"]: line["dropped"] for line in real["attrition"]}


def test_the_ten_changes_change_something_and_most_are_answered_exactly(once: Path) -> None:
    answers = [what_if(storage(once), manifest(once), change(seed)) for seed in range(CHANGES)]
    was = dropped(what_if(storage(once), manifest(once), ()))
    assert all(dropped(answer) != was for answer in answers)
    assert sum(answer.at_least == answer.kept for answer in answers) >= CHANGES // 2
