"""The command over tables of urls that a real nginx serves: killed, run again, with what failed asked for again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.archives import Archive
from tests.running import curate, decisions, jpeg, kill, leftovers, manifest, start, wait_for, written
from tests.webserver import needs_nginx, nginx, requests

RECIPE = """
filters:
  caption_words: {min_words: 3, max_words: 20}
  min_side: {larger_than: 200}
output: {samples_per_shard: 25, block_shards: 2}
"""
TABLES, ROWS = 6, 60

pytestmark = needs_nginx


def site(root: Path) -> None:
    """Make pictures 0 to 9 and some that are small; every tenth url of the tables leads nowhere."""
    root.mkdir()
    for seed in range(10):
        (root / f"{seed}.jpg").write_bytes(jpeg(seed, (150, 240) if seed == 7 else (256, 240)))


def tables(folder: Path, port: int) -> Path:
    """Write tables of urls: every fifth text is too short, every tenth picture is not there."""
    folder.mkdir()
    for number in range(TABLES):
        rows = range(number * ROWS, (number + 1) * ROWS)
        urls = [f"http://127.0.{1 + row % 9}.1:{port}/{'gone' if row % 10 == 9 else row % 10}.jpg?{row}" for row in rows]
        texts = ["too short" if row % 5 == 4 else f"a picture of number {row}" for row in rows]
        pq.write_table(pa.table({"url": urls, "caption": texts}), folder / f"{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Serve the pictures; give recipe, tables, and the folder of the server's log."""
    folder = tmp_path_factory.mktemp("web")
    site(folder / "root")
    (folder / "recipe.yaml").write_text(RECIPE)
    with nginx(folder / "root", folder / "work") as port:
        yield folder, tables(folder / "tables", port)


def arguments(web, out: Path, *more: object) -> list[object]:
    folder, urls = web
    settings = ("fetch.contact=https://example.org/crawl", "fetch.networks=127.0.0.0/8", "fetch.rate=0")
    return ["run", folder / "recipe.yaml", urls, "--out", out, *(part for one in settings for part in ("--set", one)), *more]


def pictures(web) -> Counter[str]:
    """Return how often each picture was asked for."""
    return Counter(path for path in requests(web[0] / "work") if "?" in path)


def test_from_urls_to_tars_in_one_command(web, tmp_path):
    before = pictures(web)
    done = curate(*arguments(web, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "the filters before saved 72 of 360 downloads (20.0%)" in done.stdout
    asked = pictures(web) - before
    assert len(asked) == 288 and set(asked.values()) == {1}
    fates = Counter(row["dropped_by"] for row in decisions(tmp_path / "out"))
    assert fates == {None: 252, "caption_words": 72, "min_side": 36}
    verified = curate("verify", tmp_path / "out")
    assert verified.returncode == 0, verified.stdout
    stated = json.loads(curate(*arguments(web, tmp_path / "out"), "--json").stdout)
    assert stated["state"] == "nothing to do" and stated["fetch"]["asked"] == 288
    assert (tmp_path / "out" / "report.html").exists()


PIECES = "facts/fetch-v2/*.json"


@pytest.mark.parametrize(("pattern", "count"), [(PIECES, 1), (PIECES, 4), ("marks/*/judge-*/*.json", 2)])
def test_killed_and_run_again(web, tmp_path, pattern, count):
    assert curate(*arguments(web, tmp_path / "whole")).returncode == 0
    before = pictures(web)
    process = start(*arguments(web, tmp_path / "out", "--workers", 1))
    if wait_for(process, tmp_path / "out", pattern, count):
        kill(process)
    else:
        process.communicate()
    first = pictures(web) - before
    assert curate(*arguments(web, tmp_path / "out", "--workers", 2)).returncode == 0
    assert written(tmp_path / "out") == written(tmp_path / "whole") and leftovers(tmp_path / "out") == []
    again = pictures(web) - before - first
    assert sum(again.values()) + sum(first.values()) <= 288 + 2 * ROWS  # what was committed is not asked for again


def test_what_failed_is_asked_for_again(tmp_path):
    site(tmp_path / "root")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("min_words: 3", "min_words: 2"))
    with nginx(tmp_path / "root", tmp_path / "work") as port:
        web = tmp_path, tables(tmp_path / "tables", port)
        curate(*arguments(web, tmp_path / "out"))
        assert Counter(row["fetch"] for row in decisions(tmp_path / "out")) == {"ok": 324, "http_404": 36}
        before = pictures(web)
        (tmp_path / "root" / "gone.jpg").write_bytes(jpeg(20))
        assert curate(*arguments(web, tmp_path / "out")).returncode == 0 and pictures(web) == before
        assert curate(*arguments(web, tmp_path / "out", "--retry-failed")).returncode == 0
        asked = pictures(web) - before
        assert len(asked) == 36 and all(path.startswith("/gone") for path in asked)
        assert Counter(row["fetch"] for row in decisions(tmp_path / "out")) == {"ok": 360}
        assert manifest(tmp_path / "out")["kept"] == 324


def test_nobody_to_write_to(web, tmp_path):
    folder, urls = web
    for command in (["run", folder / "recipe.yaml", urls, "--out", tmp_path / "out"], ["dry-run", folder / "recipe.yaml", urls]):
        refused = curate(*command)
        assert refused.returncode == 1 and "fetch.contact" in refused.stderr and refused.stderr.count("\n") <= 2
    assert not (tmp_path / "out").exists()


def test_a_dry_run_fetches_its_samples(web):
    folder, urls = web
    _, *rest = arguments(web, Path("unused"))
    done = curate("dry-run", folder / "recipe.yaml", urls / "0.parquet", "--samples", 20, *rest[4:], "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["records"] == 20 and found["stages"]["fetch"]["records"] == 16


def test_fetch_alone(web, tmp_path):
    _, urls = web
    _, _, _, *rest = arguments(web, tmp_path / "out")
    assert curate("fetch", urls / "0.parquet", *rest).returncode == 0
    assert Counter(row["dropped_by"] for row in decisions(tmp_path / "out")) == {None: 54, "fetch": 6}


def crawl_of(folder: Path, port: int) -> Path:
    """Write two archives of pages that show the site's pictures, and one that is cut off."""
    folder.mkdir()
    for number in range(3):
        archive = Archive()
        for page in range(10):
            names = [(one, f"/{(page + one) % 10}.jpg?{number}.{page}") for one in (0, 3)]
            tags = "".join(f"<figure><img src='{name}' alt='picture {one} of page {page}'></figure>" for one, name in names)
            archive.answer(f"http://127.0.{1 + number}.1:{port}/{page}.html", f"<p>words {tags}<img src=/x.gif>".encode())
        (folder / f"{number}.warc.gz").write_bytes(archive.bytes()[: -100 if number == 2 else None])
    return folder


@pytest.fixture(scope="module")
def crawl(web):
    folder, _ = web
    port = urlsplit(pq.read_table(folder / "tables/0.parquet")["url"][0].as_py()).port
    return folder, crawl_of(folder / "crawl", port)


def test_from_an_archive_to_tars_in_one_command(crawl, tmp_path):
    done = curate(*arguments(crawl, tmp_path / "out"))
    assert done.returncode == 3 and "2.warc.gz" in done.stderr, done.stderr  # cut short, and the pages before are used
    found = decisions(tmp_path / "out")
    assert Counter(row["shard"] for row in found) == {"0.warc.gz": 20, "1.warc.gz": 20, "2.warc.gz": 18}
    assert {row["dropped_by"] for row in found} == {None, "min_side"}
    assert found[0]["text"] == "picture 0 of page 0" and found[0]["key"] == "0/0/0"
    assert curate("verify", tmp_path / "out").returncode == 0


def test_an_archive_killed_and_run_again(crawl, tmp_path):
    curate(*arguments(crawl, tmp_path / "whole"))
    process = start(*arguments(crawl, tmp_path / "out", "--workers", 1))
    wait_for(process, tmp_path / "out", PIECES)
    kill(process)
    assert curate(*arguments(crawl, tmp_path / "out")).returncode == 3
    assert written(tmp_path / "out") == written(tmp_path / "whole") and leftovers(tmp_path / "out") == []


def test_extracted_pairs_are_a_table_of_urls(crawl, tmp_path):
    folder, archives = crawl
    assert curate("extract", archives, "--out", tmp_path / "pairs").returncode == 3
    assert curate(*arguments((folder, tmp_path / "pairs"), tmp_path / "out")).returncode == 0
    assert curate(*arguments(crawl, tmp_path / "direct")).returncode == 3
    outs = tmp_path / "out", tmp_path / "direct"
    kept = [sorted((row["url"], row["text"]) for row in decisions(out) if row["sample_key"]) for out in outs]
    assert kept[0] == kept[1] != []


def test_a_crawl_that_is_only_counted(crawl, tmp_path):
    folder, archives = crawl
    recipe = RECIPE.replace("filters:\n", "filters:\n  caption_frequency: {max_images: 2, record_from: 2}\n")
    (tmp_path / "counting.yaml").write_text(recipe)
    _, _, inputs, *rest = arguments((folder, archives / "0.warc.gz"), tmp_path / "out")
    assert curate("run", tmp_path / "counting.yaml", inputs, *rest, "--counts-of", archives / "1.warc.gz").returncode == 0
    assert {row["dropped_by"] for row in decisions(tmp_path / "out")} == {None, "min_side"}
    *some, _ = [row["caption_frequency"] for row in decisions(tmp_path / "out")]
    assert set(some) == {2}  # the same alt text under another picture of the other archive
