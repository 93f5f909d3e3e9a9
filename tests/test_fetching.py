"""Runs over tables of urls: what is asked for, what came of it, retries, kills; the web is a function here."""

from __future__ import annotations

import hashlib
import signal
import tarfile
from collections.abc import Generator
from dataclasses import replace

import pytest

from curate.api import apart
from curate.core.errors import InputError, OutputError, RecipeError
from curate.driver.download_estimate import Savings, savings
from curate.passes.fetch import _Arrived, _Row, _some
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.report.fetches import Fetches, fetches
from curate.report.what_if import what_if
from curate.sources.listing import list_shards
from curate.storage.backend import storage
from tests.running import InProcess, Setup, decisions, jpeg, leftovers, make_tar, manifest, pairs, run_job, stamps, written
from tests.web import table, url, web_of

RECIPE = """
filters:
  min_side: {larger_than: 200}
  caption_words: {min_words: 3, max_words: 20}
  image_reuse: {max_texts: 3, record_from: 2}
fetch: {contact: https://example.org/crawl}
output: {samples_per_shard: 4, block_shards: 2}
"""


@pytest.fixture
def mixed(tmp_path):
    """Two tables: too short texts, dead links, a small image, a url twice, one without url."""
    web = web_of(range(8))
    web.answers[url("small")] = jpeg(9, (120, 300))
    web.answers[url("slow")] = "timeout"
    one = [(url(n), f"a picture of number {n}") for n in range(6)] + [(url(0), "short"), (url("gone"), "a picture that is gone")]
    two = [(url(6), "two words"), (url("small"), "a very small picture"), (url("slow"), "a picture that is slow")]
    two += [(None, "no url at all"), (url(7), "seven seen once"), (url(7), "seven seen again")]
    return Setup(RECIPE, [table(tmp_path / "a.parquet", one), table(tmp_path / "b.parquet", two)], download=web), web


def test_only_what_text_filters_leave_is_fetched(mixed, tmp_path):
    setup, web = mixed
    outcome = run_job(setup, tmp_path / "out")
    assert sorted(web.asked) == sorted([*map(url, range(6)), url("gone"), url("small"), url("slow"), url(7)])
    rows = {(row["shard_index"], row["row"]): row for row in decisions(tmp_path / "out")}
    dropped = {place: row["dropped_by"] for place, row in rows.items() if row["dropped_by"]}
    assert dropped == {
        (0, 6): "caption_words", (0, 7): "fetch", (1, 0): "caption_words", (1, 1): "min_side", (1, 2): "fetch", (1, 3): "fetch",
    }  # fmt: skip
    assert rows[0, 7]["fetch"] == "http_404" and rows[0, 7]["error"] == "http_404" and rows[0, 7]["failed"] == ["fetch"]
    assert rows[1, 2]["fetch"] == "timeout" and rows[1, 3]["fetch"] == rows[1, 3]["error"] == "missing_url"
    assert "min_side" in rows[0, 6]["not_evaluated"] and rows[0, 6]["width"] is None
    assert outcome.kept == 8 and manifest(tmp_path / "out")["recipe"]["order"][2:4] == ["fetch", "min_side"]


def test_the_tars_hold_the_bytes_that_came(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "out")
    found = {}
    for path in sorted((tmp_path / "out" / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found.update({member.name: tar.extractfile(member).read() for member in tar})
    kept = [row for row in decisions(tmp_path / "out") if row["sample_key"]]
    assert {row["sample_key"] + ".jpg" for row in kept} == {name for name in found if name.endswith(".jpg")}
    for row in kept:
        assert found[row["sample_key"] + ".jpg"] == web.answers[row["url"]]
        assert row["sha256"] == hashlib.sha256(web.answers[row["url"]]).hexdigest()


def test_a_finished_run_asks_nothing(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "out")
    before, asked = stamps(tmp_path / "out"), len(web.asked)
    assert run_job(setup, tmp_path / "out").state == "nothing to do"
    assert len(web.asked) == asked and stamps(tmp_path / "out") == before and leftovers(tmp_path / "out") == []


def test_looser_filters_fetch_only_what_is_new(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "out")
    web.asked.clear()
    run_job(replace(setup, overrides=("caption_words.min_words=2",)), tmp_path / "out")
    assert web.asked == [url(6)]
    run_job(replace(setup, overrides=("caption_words.min_words=2",)), tmp_path / "fresh")
    assert written(tmp_path / "out") == written(tmp_path / "fresh")


def test_failures_are_asked_for_again_only_when_told(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "out")
    web.asked.clear()
    web.answers |= {url("slow"): jpeg(20), url("gone"): jpeg(21)}
    assert run_job(setup, tmp_path / "out").state == "nothing to do" and not web.asked
    outcome = run_job(replace(setup, retry_failed=True), tmp_path / "out")
    assert sorted(web.asked) == [url("gone"), url("slow")] and outcome.kept == 10
    run_job(setup, tmp_path / "fresh")
    assert written(tmp_path / "out") == written(tmp_path / "fresh")


def test_a_killed_fetch_keeps_its_pieces(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "whole")
    web.asked.clear()
    web.dies_after = 8  # in the middle of the second table
    with pytest.raises(KeyboardInterrupt):
        run_job(setup, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    web.dies_after, first = None, list(web.asked)
    run_job(setup, tmp_path / "out")
    assert len(web.asked) == len(first) + 3  # the table that was whole is not asked for again
    assert written(tmp_path / "out") == written(tmp_path / "whole") and leftovers(tmp_path / "out") == []


def test_a_fetch_that_is_asked_to_end_loses_nothing(mixed, tmp_path):
    """Schedulers send SIGTERM, the driver to its workers too: what has come is committed before the process ends."""
    setup, web = mixed
    run_job(setup, tmp_path / "whole")
    web.asked.clear()
    web.hangs_after = 8  # in the middle of the second table

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_job(setup, tmp_path / "out")
    finally:
        signal.signal(signal.SIGTERM, before)
    web.hangs_after, first = None, web.asked.copy()
    run_job(setup, tmp_path / "out")
    assert len(first) == 8 and len(set(web.asked)) == len(web.asked)  # nothing was asked for twice
    assert written(tmp_path / "out") == written(tmp_path / "whole") and leftovers(tmp_path / "out") == []


def test_a_table_that_gives_sha256(tmp_path):
    web = web_of(range(2))
    right = hashlib.sha256(web.answers[url(0)]).hexdigest().upper()
    rows = [(url(number), f"a picture of {number} in row {row}") for row, number in enumerate([0, 1, 0, 0, 0])]
    given = [None, "0" * 64, right, "1" * 64, ""]
    tables = [table(tmp_path / "a.parquet", rows, sha256=given)]
    setup = Setup(RECIPE.replace("max_texts: 3", "max_texts: 9"), tables, download=web)
    run_job(setup, tmp_path / "out")
    found = decisions(tmp_path / "out")
    assert [row["fetch"] for row in found] == ["ok", "sha256_mismatch", "ok", "sha256_mismatch", "ok"]
    assert [row["sha256"] is None for row in found] == [False, True, False, True, False] and len(web.asked) == 2


def test_images_that_were_lost_are_asked_for_again(mixed, tmp_path):
    setup, web = mixed
    run_job(setup, tmp_path / "out")
    for tar in (tmp_path / "out" / "fetched").iterdir():
        tar.unlink()
    web.asked.clear()
    (tmp_path / "out" / "manifest.json").unlink()
    assert run_job(setup, tmp_path / "out").failed == [] and len(web.asked) == 8  # what had failed is not
    web.asked.clear()
    for tar in (tmp_path / "out" / "fetched").iterdir():
        tar.unlink()
    looser = replace(setup, overrides=("caption_words.min_words=2",))
    assert run_job(looser, tmp_path / "out").failed == []
    assert sorted(web.asked) == sorted([*map(url, range(8)), url("small")])
    run_job(looser, tmp_path / "fresh")
    assert written(tmp_path / "out") == written(tmp_path / "fresh")


def test_tars_and_urls_in_one_input(tmp_path):
    tar = make_tar(tmp_path / "a.tar", pairs(range(30, 33)))
    web = web_of(range(2))
    rows = [(url(0), "a picture of zero"), (url(1), "short"), (url("x"), "a picture that is gone")]
    outcome = run_job(Setup(RECIPE, [tar, table(tmp_path / "b.parquet", rows)], download=web), tmp_path / "out")
    assert [row["fetch"] for row in decisions(tmp_path / "out")] == ["here", "here", "here", "ok", None, "http_404"]
    assert outcome.kept == 4


def test_captions_want_the_image_whatever_its_text(mixed):
    setup, _ = mixed
    shards = list_shards([str(path) for path in setup.inputs], {})
    asked = {}
    for name in ("align", "align_capfilt"):
        plan = planning.plan(planning.fetching(recipes.load(name, ("image_reuse.max_texts=30", "common_ngrams.min_count=1"))))
        asked[name] = savings(plan, shards, InProcess()).needed
    assert asked == {"align": 11, "align_capfilt": 13}  # of 13 with a url two have too short a text


def test_what_if_knows_what_was_not_fetched(mixed, tmp_path):
    setup, _ = mixed
    run_job(setup, tmp_path / "out")
    out = storage(tmp_path / "out")
    assert what_if(out, manifest(tmp_path / "out"), ()).kept == 8
    found = what_if(out, manifest(tmp_path / "out"), ("caption_words.min_words=1",))
    assert (found.at_least, found.kept) == (8, 10)  # two texts would pass whose images nobody has seen


def test_a_plan_knows_the_downloads_it_saves(mixed, tmp_path):
    setup, _ = mixed
    (tmp_path / "r.yaml").write_text(RECIPE)
    plan = planning.plan(planning.fetching(recipes.load(str(tmp_path / "r.yaml"))))
    shards = list_shards([str(path) for path in setup.inputs], {})
    assert savings(plan, shards, InProcess()) == Savings(14, 11, exact=True, left_out=())
    run_job(setup, tmp_path / "out")
    assert fetches(storage(tmp_path / "out")) == Fetches(14, 12, 9, {"http_404": 1, "missing_url": 1, "timeout": 1})


def test_counting_by_content_needs_images():
    recipe = recipes.load("align", ["image_reuse.identity=content"])
    with pytest.raises(RecipeError, match="image_reuse: identity=content"):
        planning.fetching(recipe)


def test_a_site_must_be_able_to_write_to_somebody(mixed, tmp_path):
    setup, web = mixed
    with pytest.raises(InputError, match=r"fetch\.contact"):
        run_job(replace(setup, overrides=("fetch.contact=''",)), tmp_path / "out")
    assert not web.asked


def test_the_rest_of_the_crawl_is_only_counted(tmp_path):
    recipe = RECIPE.replace("image_reuse: {max_texts: 3, record_from: 2}", "caption_frequency: {max_images: 3, record_from: 2}")
    rows = [(url(n), "a logo everywhere" if n < 2 else f"a picture of number {n}") for n in range(4)]
    setup = Setup(recipe, [table(tmp_path / "part.parquet", rows)], download=web_of(range(4)))
    assert run_job(setup, tmp_path / "alone").kept == 4
    crawl = table(tmp_path / "crawl.parquet", [(url(f"elsewhere{n}"), "a logo everywhere") for n in range(5)])
    counted = run_job(replace(setup, counts_of=[crawl]), tmp_path / "counted")
    assert (counted.records, counted.kept) == (4, 2)
    assert [row["dropped_by"] for row in decisions(tmp_path / "counted")] == ["caption_frequency"] * 2 + [None] * 2
    assert [row["caption_frequency"] for row in decisions(tmp_path / "counted")][:2] == [7, 7]


def test_a_piece_ends_on_time_however_slowly_images_come():
    def trickle() -> Generator[_Arrived | None, None, None]:
        yield _Arrived([_Row(0, None)], "http_404", None)
        while True:
            yield None

    arriving = trickle()
    assert [one.error for one in _some(arriving, lambda: True) if one] == ["http_404"]
    assert _some(arriving, lambda: True) == []


@pytest.mark.parametrize(("given", "out"), [("in", "in"), ("in", "in/out"), ("in/shards", "in"), ("in/*.tar", "in")])
def test_an_output_is_no_input(given, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="choose another --out"):
        apart([given], out)
    apart([given], "in-other")


def test_an_extraction_is_no_place_for_a_run(mixed, tmp_path):
    setup, _ = mixed
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    (tmp_path / "out" / "extract.json").write_text("{}")
    with pytest.raises(OutputError, match="output of curate extract"):
        run_job(setup, tmp_path / "out")
