"""curate extract: the same bytes for any number of workers and after a kill, nothing done twice, nothing lost in silence."""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core.errors import InputError, OutputError
from curate.driver.extract import Extracted, Extraction
from curate.sources.listing import list_shards
from curate.sources.webarchive.pairs import PAIR_SCHEMA, Options
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.archives import Archive, site
from tests.running import InProcess, command, jpeg, kill, picture, stamps, start, wait_for


@dataclass(frozen=True)
class Runs:
    """An extraction in this process."""

    inputs: Path
    out: Path
    options: Options = Options()
    with_images: bool = False

    def __call__(self, runner: Any = None) -> Extracted:
        shards, store = list_shards([str(self.inputs)], {}), Store(storage(self.out))
        return Extraction(shards, store, runner or InProcess(), self.options, self.with_images).run()


def crawl(folder: Path, archives: int = 4, pages: int = 6) -> Path:
    """Write archives of small pages."""
    for number in range(archives):
        site(range(number * pages, number * pages + pages)).write(folder / f"{number}.warc.gz")
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    table = pq.read_table(path)
    assert table.cast(PAIR_SCHEMA).schema.equals(PAIR_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def content(out: Path) -> dict[str, bytes]:
    """Return every file that must be the same whatever happened."""
    found = [out / "extract.json", *(out / "pairs").iterdir(), *(out / "shards").glob("*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_pairs_of_each_archive_with_how_often_they_came(tmp_path: Path) -> None:
    outcome = Runs(crawl(tmp_path / "in"), tmp_path / "out")()
    assert outcome.totals() == {"pages": 24, "images": 72, "with_alt": 72, "pairs": 72, "different": 52, "images_written": 0}
    rows = rows_of(tmp_path / "out" / "pairs" / "000002.parquet")
    assert [row["count"] for row in rows if row["text"] == "logo"] == [6]
    assert sum(row["count"] for row in rows) == 18
    assert {row["surrounding"] for row in rows} == {None}
    told = json.loads((tmp_path / "out" / "extract.json").read_text())
    assert [one["archive"] for one in told["archives"]] == [f"{number}.warc.gz" for number in range(4)]


def test_the_same_again_does_nothing_and_another_option_does_it_again(tmp_path: Path) -> None:
    runs = Runs(crawl(tmp_path / "in"), tmp_path / "out")
    runs()
    before = stamps(tmp_path / "out")
    assert runs().state == "nothing to do"
    assert stamps(tmp_path / "out") == before
    assert Runs(tmp_path / "in", tmp_path / "out", Options(surrounding=20))().state == "done"
    assert rows_of(tmp_path / "out" / "pairs" / "000000.parquet")[1]["surrounding"] == "word word\n"
    assert len(list((tmp_path / "out" / "marks").iterdir())) == 1


class Dies(InProcess):
    """A runner whose worker dies on one archive, so many times."""

    def __init__(self, index: int, times: int) -> None:
        object.__setattr__(self, "left", {index: times})

    def map(self, task: Any, items: Any, needs: Any) -> Any:
        from curate.core.contracts import TaskDied

        left: dict[int, int] = self.left  # type: ignore[attr-defined]
        for item in items:
            if left.get(item.index, 0):
                left[item.index] -= 1
                yield TaskDied(item, "its worker died with exit code -11", -11)
            else:
                yield task(item)


def test_a_worker_that_dies_is_tried_again_and_then_reported(tmp_path: Path) -> None:
    runs = Runs(crawl(tmp_path / "in"), tmp_path / "out")
    assert runs(Dies(1, 2)).failed == []
    gone = Runs(tmp_path / "in", tmp_path / "out2")
    assert gone(Dies(1, 9)).failed == [{"archive": "1.warc.gz", "reason": "its worker died with exit code -11"}]
    assert not (tmp_path / "out2" / "pairs" / "000001.parquet").exists()
    assert gone().failed == []  # the same command again tries it again
    assert content(tmp_path / "out") == content(tmp_path / "out2")


def test_what_is_cut_short_is_kept_and_told(tmp_path: Path) -> None:
    folder = crawl(tmp_path / "in")
    data = (folder / "1.warc.gz").read_bytes()
    (folder / "1.warc.gz").write_bytes(data[:-30])
    found = subprocess.run(
        command("extract", folder, "--out", tmp_path / "out", "--workers", 1, "--json"), capture_output=True, text=True
    )
    assert found.returncode == 3, found.stderr
    told = json.loads(found.stdout)
    assert [(one["archive"], "1.warc.gz: cut off at byte" in one["reason"]) for one in told["cut_short"]] == [("1.warc.gz", True)]
    assert told["archives"] == 4 and len(rows_of(tmp_path / "out" / "pairs" / "000001.parquet")) >= 11


def test_other_inputs_and_other_outputs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"url": ["http://a"], "text": ["a"], "image": pa.array([b"x"])}), tmp_path / "in" / "a.parquet")
    with pytest.raises(InputError, match=r"not a web archive"):
        Runs(tmp_path / "in", tmp_path / "out")()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(OutputError, match="not an output of curate"):
        Runs(crawl(tmp_path / "in2"), tmp_path / "mine")()


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    folder = crawl(tmp_path / "in", archives=12, pages=150)
    Runs(folder, tmp_path / "whole", Options(surrounding=30), with_images=True)()
    arguments = ("extract", folder, "--out", tmp_path / "out", "--surrounding", 30, "--images-from-archive", "--workers", 2)
    for count in (1, 4):
        process = start(*arguments)
        wait_for(process, tmp_path / "out", "marks/*/extract/*.json", count)
        kill(process)
    done = stamps(tmp_path / "out", "pairs/0*.parquet")
    found = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    marks = {path.stem for path in (tmp_path / "out").glob("marks/*/extract/*.json")}
    assert len(marks) == 12 and stamps(tmp_path / "out").keys() >= done.keys()
    assert [path for path in (tmp_path / "out").rglob(".*") if path.name != ".lock"] == []


def test_images_of_the_archive_itself_become_samples(tmp_path: Path) -> None:
    archive = Archive()
    tags = [
        ("a.jpg", "first"),
        ("b.png", "second"),
        ("c.jpg", "not here"),
        ("d.jpg", "seen again"),
        ("e.jpg", "no image"),
        ("a.jpg", "same image"),
    ]
    html = "".join(f"<img src='{name}' alt='{alt}'>" for name, alt in tags)
    archive.answer("http://site.example/", html.encode())
    images = {"a.jpg": jpeg(1), "b.png": picture(2, "PNG")}
    archive.status = "404 Not Found"
    archive.answer("http://site.example/a.jpg", jpeg(9), {"Content-Type": "image/jpeg"})  # what stands for a missing picture
    archive.status = "200 OK"
    for name, data in images.items():
        archive.answer(f"http://site.example/{name}", data, {"Content-Type": "image/" + name[2:].replace("jpg", "jpeg")})
    archive.answer("http://site.example/e.jpg", b"<html>gone", {"Content-Type": "image/jpeg"})
    again = {"WARC-Refers-To": "<urn:uuid:" + f"{3:032x}>", "WARC-Refers-To-Target-URI": "http://site.example/a.jpg"}
    archive.record("http://site.example/d.jpg", "revisit", b"", media="application/http", more=again)
    archive.write(tmp_path / "in" / "x.warc.gz")
    outcome = Runs(tmp_path / "in", tmp_path / "out", with_images=True)()
    assert outcome.totals()["images_written"] == 4 and outcome.totals()["different"] == 6
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [name for name in found if not name.endswith(("txt", "json"))] == [
        "000000000000000.jpg", "000000000000001.png", "000000000000003.jpg", "000000000000005.jpg"]  # fmt: skip
    assert found["000000000000003.jpg"] == found["000000000000000.jpg"] == images["a.jpg"]
    assert found["000000000000001.png"] == images["b.png"]
    assert found["000000000000003.txt"] == b"seen again"
    told = json.loads(found["000000000000001.json"])
    assert (told["url"], told["page_url"], told["position"]) == ("http://site.example/b.png", "http://site.example/", 1)
    [shard] = list_shards([str(tmp_path / "out" / "shards")], {})
    assert shard.kind == "tar"


def test_the_real_archives_end_with_all_that_could_be_read(shared: Path, tmp_path: Path) -> None:
    runs = Runs(shared / "data" / "warc", tmp_path / "out", with_images=True)
    outcome = runs()
    assert outcome.failed == [] and len(outcome.archives) == 63
    assert len(outcome.cut_short()) == 6 and outcome.totals()["pairs"] > 1500 and outcome.totals()["images_written"] > 100
