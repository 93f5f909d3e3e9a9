"""Filters after `fetch` judge only images that were fetched: of the others nothing is known, and nothing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import Setup, decisions, make_tar, pairs, run_job
from tests.web import table, url, web_of

RECIPE = """
filters:
  min_side: {larger_than: 200}
  sql: {where: "width > 10"}
  caption_words: {min_words: 3}
  unreadable:
fetch: {contact: https://example.org/crawl}
output: {samples_per_shard: 4, block_shards: 1}
"""
BEFORE, AFTER = ["caption_words"], ["min_side", "sql", "unreadable"]


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, dict[str, object]]:
    """Return the decisions of an image that came, two that did not, one that nobody wanted, and one that an input holds."""
    web = web_of(["came"])
    web.answers[url("gone")] = "timeout"
    listed = [(url("came"), "a picture that came"), (url("gone"), "a picture that is gone")]
    listed += [(None, "a picture without url"), (url("short"), "too short")]
    inputs = [table(tmp_path / "a.parquet", listed), make_tar(tmp_path / "b.tar", pairs([7]))]
    assert run_job(Setup(RECIPE, inputs, download=web), tmp_path / "out").failed == []
    return dict(zip(["came", "gone", "none", "short", "held"], decisions(tmp_path / "out"), strict=True))


@pytest.mark.parametrize("name", ["came", "held"])
def test_an_image_that_is_here_is_judged_by_all(name: str, rows: dict[str, dict[str, object]]) -> None:
    assert (rows[name]["dropped_by"], rows[name]["not_evaluated"], rows[name]["min_side"]) == (None, [], 240)


@pytest.mark.parametrize(("name", "cause"), [("gone", "timeout"), ("none", "missing_url")])
def test_an_image_that_did_not_come_is_judged_by_fetch_alone(name: str, cause: str, rows: dict[str, dict[str, object]]) -> None:
    row = rows[name]
    assert (row["fetch"], row["dropped_by"], row["failed"]) == (cause, "fetch", ["fetch"])
    assert sorted(row["not_evaluated"]) == AFTER  # type: ignore[call-overload]


def test_an_image_that_nobody_wanted_is_judged_by_no_filter_of_images(rows: dict[str, dict[str, object]]) -> None:
    row = rows["short"]
    assert (row["fetch"], row["dropped_by"], row["failed"]) == (None, "caption_words", ["caption_words"])
    assert sorted(row["not_evaluated"]) == sorted(["fetch", *AFTER])  # type: ignore[call-overload]
