"""A fetch without a network stops after some failures, records none of them, and goes on when the network is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from curate.core.errors import NetworkDown
from curate.fetch import FetchResult
from curate.fetch.offline import while_online
from tests.running import Setup, decisions, jpeg, leftovers, run_job, written
from tests.web import Web, table

RECIPE = """
filters:
  unreadable:
fetch: {contact: https://example.org/crawl}
output: {samples_per_shard: 4, block_shards: 2}
"""
URLS = [f"http://host{number % 7}.example/{number}.jpg" for number in range(300)]
FAILED = ("dns", "connect")


def answers(*codes: str | None) -> Iterator[FetchResult | None]:
    for row, code in enumerate(codes):
        yield None
        yield FetchResult(row, code, None if code else b"image")


def got(*codes: str | None, limit: int = 4) -> list[str | None]:
    urls = dict(enumerate(URLS))
    return [one.error for one in while_online(answers(*codes), urls, limit) if one is not None]


@pytest.mark.parametrize("codes", [("dns",) * 4, ("connect", "bad_url", "dns", "host_down", "dns"), ("blocked", *["dns"] * 9)])
def test_nothing_but_failures_to_reach_a_site_stops(codes: tuple[str, ...]) -> None:
    with pytest.raises(NetworkDown, match="the network is down"):
        got(*codes)


@pytest.mark.parametrize(
    "codes",
    [("dns", "dns", "dns"), ("dns", "http_404", *["dns"] * 9), ("connect", None, *["connect"] * 9), ("timeout", *["dns"] * 9)],
)
def test_any_other_answer_or_too_few_failures_do_not(codes: tuple[str | None, ...]) -> None:
    assert got(*codes) == list(codes)


def test_one_host_that_is_down_is_not_the_network() -> None:
    urls = dict.fromkeys(range(9), "http://dead.example/x.jpg")
    assert len([one for one in while_online(answers(*["dns"] * 9), urls, 4) if one is not None]) == 9


def test_it_can_be_turned_off() -> None:
    assert len(got(*["dns"] * 9, limit=0)) == 9


def test_the_run_stops_and_a_later_one_goes_on(tmp_path: Path) -> None:
    tables = [table(tmp_path / f"{name}.parquet", [(url, f"number {url}") for url in URLS]) for name in "abc"]
    dead = Web({url: FAILED[number % 2] for number, url in enumerate(URLS)})
    setup = Setup(RECIPE, tables, download=dead)
    with pytest.raises(NetworkDown) as told:
        run_job(setup, tmp_path / "out")
    assert "\n" not in str(told.value) and "first 200 requests, to 7 hosts" in str(told.value)
    assert len(dead.asked) == 200  # no other shard was begun
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out" / "facts").glob("fetch*/*"))
    image = jpeg(1)
    there = replace(setup, download=Web({url: image if number % 3 else "dns" for number, url in enumerate(URLS)}))
    run_job(there, tmp_path / "out")
    run_job(there, tmp_path / "undisturbed" / "out")
    assert written(tmp_path / "out") == written(tmp_path / "undisturbed" / "out") and leftovers(tmp_path / "out") == []
    assert sum(row["fetch"] == "dns" for row in decisions(tmp_path / "out")) == 300
