"""Archives that are packed or written oddly: several records a gzip member, LF alone, wrong lengths, WET, pages of errors."""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from curate.core.contracts import ShardBreak
from curate.core.errors import InputError
from curate.driver.extract import Extracted, Extraction
from curate.sources.listing import list_shards
from curate.sources.webarchive.pairs import Options, Reading, pairs
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.archives import Archive, site
from tests.running import InProcess, command, jpeg
from tests.test_archive import packed_as


def extracted(source: Path, out: Path) -> Extracted:
    return Extraction(list_shards([str(source)], {}), Store(storage(out)), InProcess(), with_images=True).run()


def rows_of(path: Path, options: Options | None = None) -> tuple[list[dict[str, Any]], Reading, str | None]:
    reading, rows = Reading(str(path), options or Options()), []
    try:
        for batch in pairs(reading):
            rows += batch.to_pylist()
    except ShardBreak as error:
        return rows, reading, str(error)
    return rows, reading, None


def records(count: int = 3) -> list[bytes]:
    """Return pages, each followed by its image."""
    archive = Archive(packed=False)
    for number in range(count):
        archive.answer(f"http://site.example/{number}", f"<img src=/{number}.jpg alt='picture {number}'>".encode())
        archive.answer(f"http://site.example/{number}.jpg", jpeg(number), {"Content-Type": "image/jpeg"})
    return split(archive)


def split(archive: Archive) -> list[bytes]:
    data = archive.bytes()
    return [data[start:end] for start, end in pairwise([*archive.starts, len(data)])]


def members(parts: list[bytes], size: int) -> bytes:
    return b"".join(gzip.compress(b"".join(parts[at : at + size]), mtime=0) for at in range(0, len(parts), size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_images_are_had_from_members_of_several_records(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.warc.gz").write_bytes(members(records(), size))
    outcome = extracted(tmp_path / "a.warc.gz", tmp_path / "out")
    assert outcome.totals()["images_written"] == 3 and outcome.damaged() == {} and not outcome.cut_short()
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [found[f"00000000000000{number}.jpg"] for number in range(3)] == [jpeg(number) for number in range(3)]
    assert [found[f"00000000000000{number}.txt"] for number in range(3)] == [b"picture 0", b"picture 1", b"picture 2"]


@pytest.mark.parametrize("kind", ["ZstdWriter", "Lz4Writer"])
def test_images_are_had_from_other_packings(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.warc.zst").write_bytes(packed_as(kind, b"".join(records())))
    assert extracted(tmp_path / "a.warc.zst", tmp_path / "out").totals()["images_written"] == 3


def test_images_before_the_break_are_had_from_one_member(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(records()), mtime=0)
    (tmp_path / "a.warc.gz").write_bytes(data[: -len(data) // 4])
    outcome = extracted(tmp_path / "a.warc.gz", tmp_path / "out")
    assert outcome.totals()["images_written"] == 2 and len(outcome.cut_short()) == 1


def bare(record: bytes) -> bytes:
    head, end, body = record.partition(b"\r\n\r\n")
    return head.replace(b"\r\n", b"\n") + b"\n\n" + body.removesuffix(end) + b"\n\n"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("odd", [{0, 1, 2, 3}, {0, 1}, {2, 3}, {1}])
def test_headers_may_end_their_lines_with_lf_alone(tmp_path: Path, packed: bool, odd: set[int]) -> None:
    parts = [bare(part) if number in odd else part for number, part in enumerate(split(site(range(4), packed=False)))]
    (tmp_path / "a").write_bytes(members(parts, 1) if packed else b"".join(parts))
    rows, reading, broken = rows_of(tmp_path / "a")
    assert broken is None and not reading.tally.damaged
    assert {row["page_url"] for row in rows} == {f"http://site.example/{number}.html" for number in range(4)}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("wrong", [2, 10, 500, -1, -100])
def test_a_wrong_length_costs_its_page_alone(tmp_path: Path, packed: bool, wrong: int) -> None:
    parts = split(site(range(5), packed=False))
    head, end, body = parts[2].partition(b"\r\n\r\n")
    said = int(head.rpartition(b"Content-Length: ")[2])
    parts[2] = head.replace(b"Content-Length: %d" % said, b"Content-Length: %d" % (said + wrong)) + end + body
    (tmp_path / "a").write_bytes(members(parts, 1) if packed else b"".join(parts))
    rows, reading, broken = rows_of(tmp_path / "a")
    others = [row["page_url"] for row in rows if "2.html" not in row["page_url"] and row["text"] != "logo"]
    assert broken is None and others == [f"http://site.example/{number}.html" for number in (0, 1, 3, 4) for _ in range(2)]
    assert reading.tally.damaged["damaged_record"] == (wrong != 2)  # two more are the line end after it: nothing is lost


def wet() -> bytes:
    archive = Archive()
    archive.record("CC-MAIN-1.warc.wet.gz", "warcinfo", b"isPartOf: X\r\n", media="application/warc-fields")
    for number in range(3):
        archive.record(f"http://site.example/{number}", "conversion", b"A page about red bicycles", media="text/plain")
    return archive.bytes()


def test_wet_holds_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.warc.wet.gz").write_bytes(wet())
    with pytest.raises(InputError, match=r"WET holds the texts of pages and no images: take the WARC"):
        list_shards([str(tmp_path / "a.warc.wet.gz")], {})
    with pytest.raises(InputError, match=r"WET holds"):
        list_shards([str(tmp_path)], {})
    site(range(1)).write(tmp_path / "b.warc.gz")
    assert [shard.url for shard in list_shards([str(tmp_path)], {})] == [str(tmp_path / "b.warc.gz")]
    (tmp_path / "c.warc.gz").write_bytes(wet())
    found = subprocess.run(
        command("extract", tmp_path / "c.warc.gz", "--out", tmp_path / "out", "--workers", 1, "--json"),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 3
    assert "WET holds" in json.loads(found.stdout)["cut_short"][0]["reason"]


def test_pages_of_errors_give_no_pairs_unless_asked(tmp_path: Path) -> None:
    archive = Archive()
    for number, status in enumerate(("200 OK", "404 Not Found", "503 Service Unavailable", "206 Partial Content")):
        archive.status = status
        archive.answer(f"http://site.example/{number}", f"<img src=/{number}.jpg alt='picture {number}'>".encode())
    path = archive.write(tmp_path / "a.warc.gz")
    rows, reading, _ = rows_of(path)
    assert [row["text"] for row in rows] == ["picture 0", "picture 3"]
    assert (reading.tally.pages, dict(reading.tally.damaged)) == (2, {"error_page": 2})
    rows, reading, _ = rows_of(path, Options(error_pages=True))
    assert len(rows) == 4 and not reading.tally.damaged
