"""Archives: the pairs that warcio and lxml find by a slower way, what damage costs, and that nothing is lost in silence."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import brotli
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.core.contracts import RECORD_SCHEMA, Shard, ShardBreak
from curate.sources.listing import list_shards
from curate.sources.opening import open_shard, read
from curate.sources.webarchive.html import MAX_PAGE
from curate.sources.webarchive.pairs import DAMAGES, PAIR_SCHEMA, Options, Reading, pairs, stem_of
from curate.sources.webarchive.wat import _links
from tests.archives import DATE, Archive, arc, page, site


def rows_of(path: Path, options: Options | None = None) -> tuple[list[dict[str, Any]], str | None, Reading]:
    """Return the pairs of a file, its break, and what was counted; checks what holds of every batch."""
    reading, rows, broken = Reading(str(path), options or Options()), [], None
    try:
        for batch in pairs(reading):
            batch.validate(full=True)
            assert batch.schema == PAIR_SCHEMA
            rows += batch.to_pylist()
    except ShardBreak as error:
        broken = str(error)
    assert set(reading.tally.damaged) <= set(DAMAGES)
    return rows, broken, reading


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def of_pages(*numbers: int) -> list[str]:
    """Return the texts of pages of tests.archives.page, each once."""
    found = [f"image {place} of page {number}" for number in numbers for place in range(2)]
    return [*found[:2], "logo", *found[2:]] if numbers else []


def one_page(tmp_path: Path, body: bytes, headers: dict[str, str]) -> tuple[list[dict[str, Any]], Reading]:
    archive = Archive()
    archive.answer("http://site.example/a.html", body, headers)
    rows, broken, reading = rows_of(archive.write(tmp_path / "x.warc.gz"))
    assert broken is None
    return rows, reading


@pytest.mark.parametrize("packed", [True, False])
def test_a_pair_says_where_it_comes_from(tmp_path: Path, packed: bool) -> None:
    archive = site(range(3), packed)
    rows, broken, reading = rows_of(archive.write(tmp_path / "a.bin"))  # what it is stands in it, not in its name
    assert broken is None and texts(rows) == of_pages(0, 1, 2)
    last = rows[-1]
    assert (last["url"], last["page_url"], last["page_language"]) == (
        "http://site.example/2/1.jpg",
        "http://site.example/2.html",
        "en",
    )
    assert (last["position"], last["record"], last["crawl_date"].strftime("%Y-%m-%dT%H:%M:%SZ")) == (1, archive.starts[2], DATE)
    assert (reading.tally.pages, reading.tally.images, reading.tally.with_alt, reading.tally.pairs) == (3, 9, 9, 9)
    assert list(reading.repeats.values()) == [2]  # the logo, that is on every page


def packed_as(kind: str, data: bytes) -> bytes:
    from fastwarc import stream_io

    buffer = io.BytesIO()
    writer = getattr(stream_io, kind)(buffer)
    writer.write(data)
    writer.close()
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["ZstdWriter", "Lz4Writer"])
def test_other_packings_hold_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(packed_as(kind, site(range(3), packed=False).bytes()))
    rows, broken, _ = rows_of(path)
    assert broken is None and texts(rows) == of_pages(0, 1, 2)


@pytest.mark.parametrize("packed", [True, False])
def test_an_arc_holds_the_same(tmp_path: Path, packed: bool) -> None:
    path, data = tmp_path / "a.arc", arc(range(3), packed)
    path.write_bytes(data)
    rows, broken, reading = rows_of(path)
    assert broken is None and texts(rows) == of_pages(0, 1, 2) and reading.tally.pages == 3
    assert rows[-1]["crawl_date"].strftime("%Y-%m-%dT%H:%M:%SZ") == DATE
    assert data[rows[-1]["record"] :].startswith(b"\x1f\x8b" if packed else b"http://site.example/2.html")
    path.write_bytes(data[:-40])
    rows, broken, _ = rows_of(path)
    assert broken is not None and "in the record at byte" in broken and texts(rows)[:4] == of_pages(0, 1, 2)[:4]


def test_an_arc_in_one_gzip_member_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.arc.gz"
    path.write_bytes(gzip.compress(arc(range(3), packed=False)))
    rows, broken, _ = rows_of(path)
    assert broken is None and texts(rows) == of_pages(0, 1, 2)


def test_the_metadata_of_common_crawl(tmp_path: Path) -> None:
    archive = Archive()
    links: list[dict[str, Any]] = [
        {"path": "IMG@/src", "url": "a.jpg", "alt": " A &amp;  B "},
        {"path": "IMG@/src", "url": "b.jpg"},
        {"path": "A@/href", "url": "c.html", "text": "x"},
        {"path": "IMG@/src", "url": "data:x", "alt": "d"},
        {"path": "IMG@/src", "url": "//e.example/?a&copy=1", "alt": "e", "title": "T"},
    ]
    archive.wat("http://site.example/x/", links, base="/base/")
    braces = [{"path": "A@/href", "text": 'a "IMG@/src" {'}, {"path": "IMG@/src", "url": "f{1}.jpg", "alt": '} "IMG@/src" {'}]
    archive.wat("http://site.example/braces/", braces)
    archive.wat("http://site.example/none", [])
    archive.record("http://site.example/bad", "metadata", b'{"HTTP-Response-Metadata": "IMG@', media="application/json")
    number = b'{"Envelope":{"Payload-Metadata":{"HTTP-Response-Metadata":{"HTML-Metadata":'
    number += b'{"Links":[{"path":"IMG@/src","url":7}]}}}}}'
    archive.record("http://site.example/number", "metadata", number, media="application/json")
    rows, broken, reading = rows_of(archive.write(tmp_path / "x.warc.wat.gz"))
    assert broken is None
    assert [(row["url"], row["text"], row["position"]) for row in rows] == [
        ("http://site.example/base/a.jpg", "A & B", 0), ("http://e.example/?a&copy=1", "e", 3),
        ("http://site.example/braces/f%7B1%7D.jpg", '} "IMG@/src" {', 0)]  # fmt: skip
    assert (rows[0]["page_language"], rows[1]["title"]) == ("de", "T")
    assert (rows[0]["charset"], rows[0]["charset_from"]) == ("windows-1252", "header")
    assert dict(reading.tally.damaged) == {"bad_image_url": 1, "bad_json": 2}
    assert (reading.tally.pages, reading.tally.images) == (5, 5)


def chunked(data: bytes) -> bytes:
    parts = [data[at : at + 50] for at in range(0, len(data), 50)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress),
        ({"Content-Encoding": "deflate"}, zlib.compress),
        ({"Content-Encoding": "deflate"}, raw_deflate),
        ({"Content-Encoding": "br"}, brotli.compress),
        ({"Content-Encoding": "zstd"}, lambda data: packed_as("ZstdWriter", data)),
        ({"Transfer-Encoding": "chunked"}, chunked),
        ({"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}, lambda data: chunked(gzip.compress(data))),
        ({"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}, bytes),  # undone by the crawler, which left the header
        ({"Content-Encoding": "br"}, bytes),
    ],
)
def test_what_http_packed_is_unpacked(tmp_path: Path, headers: dict[str, str], encode: Any) -> None:
    rows, reading = one_page(tmp_path, encode(page(0)), headers)
    assert texts(rows) == of_pages(0) and not reading.tally.damaged


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("br", brotli.compress), ("deflate", zlib.compress)])
def test_a_bomb_is_cut_and_reported(tmp_path: Path, name: str, pack: Any) -> None:
    rows, reading = one_page(tmp_path, pack(page(0) + bytes(2 * MAX_PAGE) + page(1)), {"Content-Encoding": name})
    assert texts(rows) == of_pages(0) and dict(reading.tally.damaged) == {"page_cut": 1}


@pytest.mark.parametrize("name", ["gzip", "br", "unheard-of"])
def test_damaged_content_is_reported(tmp_path: Path, name: str) -> None:
    data = {"gzip": gzip.compress, "br": brotli.compress}.get(name, gzip.compress)(page(0) * 50)
    _, reading = one_page(tmp_path, data[:40] + b"\xff" * 40 + data[80:], {"Content-Encoding": name})
    assert reading.tally.damaged["bad_encoding"] == 1


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_record_costs_itself_alone(tmp_path: Path, packed: bool) -> None:
    archive = site(range(5), packed)
    data = bytearray(archive.bytes())
    at = archive.starts[2]
    data[at + 5 if not packed else at + 60 : at + 90] = b"\xee" * (85 if not packed else 30)
    (tmp_path / "x").write_bytes(data)
    rows, broken, reading = rows_of(tmp_path / "x")
    assert broken is None
    assert texts(rows) == of_pages(0, 1, 3, 4)
    assert dict(reading.tally.damaged) == {"damaged_record": 1}


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_ends_too_early_gives_what_came_before(tmp_path: Path, packed: bool) -> None:
    archive = site(range(5), packed)
    for cut in (archive.starts[4] + 30, archive.starts[4] + 200, len(archive.bytes()) - 20):
        (tmp_path / "x").write_bytes(archive.bytes()[:cut])
        rows, broken, _ = rows_of(tmp_path / "x")
        assert texts(rows)[: len(of_pages(0, 1, 2, 3))] == of_pages(0, 1, 2, 3)
        assert (broken is not None and f"byte {cut}" in broken) or "damaged" in str(broken)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"WARC/1.0\r\n", b"\x04\x22\x4d\x18xx", b"\x28\xb5\x2f\xfdxx", b"filedesc:"]
)
def test_what_is_no_archive_breaks_at_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.warc").write_bytes(data)
    rows, broken, _ = rows_of(tmp_path / "x.warc")
    assert rows == [] and broken is not None and "byte" in broken


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.booleans(), st.integers(0, 3000), st.binary(min_size=1, max_size=40))
def test_no_damage_is_a_crash(tmp_path: Path, packed: bool, at: int, wrong: bytes) -> None:
    data = bytearray(site(range(4), packed).bytes())
    at %= len(data)
    data[at : at + len(wrong)] = wrong
    (tmp_path / "x").write_bytes(data)
    rows, broken, _reading = rows_of(tmp_path / "x")
    assert len(rows) <= 12 and (broken or rows)


def test_an_archive_is_a_source_of_records(tmp_path: Path) -> None:
    site(range(3)).write(tmp_path / "in" / "crawl-7.warc.gz")
    (tmp_path / "in" / "b.wat").write_bytes(site(range(3, 5), packed=False).bytes())
    shards = list_shards([str(tmp_path / "in")], {})
    assert [(shard.kind, stem_of(shard.url)) for shard in shards] == [("archive", "b"), ("archive", "crawl-7")]
    table = pa.Table.from_batches(list(read(shards[1])), RECORD_SCHEMA)
    assert table["text"].to_pylist() == of_pages(0, 1, 2)
    assert table["key"].to_pylist()[-1] == "crawl-7/2/1"
    assert table["error"].null_count == table["image"].null_count == table.num_rows
    few = Shard(0, shards[1].url, "archive", 0, "0", limit=2, on_the_web=True)
    assert sum(batch.num_rows for batch in read(few)) == 2
    with open_shard(shards[1]) as opened:
        assert list(opened.images(table.slice(0, 2))) == [None, None]


def _slowly(path: Path) -> list[tuple[str, str, str]]:
    """Return page URL, source and alt of every image, by warcio and lexbor's tree."""
    from selectolax.lexbor import LexborHTMLParser
    from warcio.archiveiterator import ArchiveIterator

    found = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file, arc2warc=True):
            media = (record.http_headers or record.rec_headers).get_header("Content-Type") or ""
            if record.rec_type in ("response", "resource") and media.partition(";")[0].strip().lower() == "text/html":
                for node in LexborHTMLParser(record.content_stream().read().decode("utf-8", "replace")).css("img"):
                    source, alt = node.attributes.get("src"), " ".join((node.attributes.get("alt") or "").split())
                    if source and alt and not source.startswith("data:"):
                        found.append((record.rec_headers.get_header("WARC-Target-URI"), source.strip(), alt))
    return found


@pytest.mark.parametrize(
    "name", ["example.warc.gz", "example.arc.gz", "warcfile.warc", "warcfile.warc.gz", "whirlwind.warc.gz", "iana.warc.gz"]
)
def test_real_archives_hold_what_slower_tools_find(shared: Path, name: str) -> None:
    paths = [path for path in (shared / "data" / "warc").rglob(name) if "pywb" not in str(path) or name.startswith("iana")]
    for path in paths:
        told, broken, reading = rows_of(path, Options(error_pages=True))
        expected = _slowly(path)
        assert broken is None
        assert reading.tally.pairs + reading.tally.damaged["bad_image_url"] == len(expected), path
        pairs_told = {(row["page_url"], row["text"]) for row in told}
        assert {(url, alt.encode(errors="replace").decode()) for url, _, alt in expected if alt.isascii()} >= {
            pair for pair in pairs_told if pair[1].isascii()
        }


def test_every_real_archive_is_read_as_far_as_it_can_be(shared: Path) -> None:
    files = sorted(path for path in (shared / "data" / "warc").rglob("*") if path.is_file())
    assert len(files) == 67
    broken = {path.name: told for path in files if (told := rows_of(path)[1])}
    assert set(broken) == {
        "badexample.arc.gz", "clipped.warc.gz", "invalid_example_1.wacz", "valid_example_1.wacz", "bad.arc",
        "missing-status-text.warc",
        "example-space-in-url.arc", "whirlwind.warc.wet", "whirlwind.warc.wet.gz",
    }  # fmt: skip
    assert json.dumps(broken).isascii()


LINKS = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "A@/href", "IMG@/data-src", '"IMG@/']), "url": st.text(max_size=8)},
    optional={"alt": st.text(st.sampled_from('ab{}"\\@IMG/ '), max_size=12), "text": st.text(max_size=8)},
)


@given(st.lists(LINKS, max_size=8), st.booleans())
def test_links_are_those_of_the_whole_json(links: list[dict[str, str]], packed: bool) -> None:
    told = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": links}}}}}
    data = json.dumps(told, separators=(",", ":") if packed else None).encode()
    wanted = [link for link in links if link["path"] in ("IMG@/src", "IMG@/data-src")]
    found = [{"path": link.path, "url": link.url, "alt": link.alt} for link in _links(data)]
    assert found == [{"path": link["path"], "url": link["url"], "alt": link.get("alt", "")} for link in wanted]


def test_one_bad_page_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    archive = Archive(packed=False)
    for number, alt in enumerate(["first", "&#" + "9" * 6000 + ";", "last"]):
        archive.answer(f"http://site.example/{number}", f"<img src=/{number}.jpg alt='{alt}'>".encode())
    rows, broken, _ = rows_of(archive.write(tmp_path / "a.warc"))
    assert broken is None and [row["text"] for row in rows] == ["first", "\ufffd", "last"]


def test_a_length_that_is_wrong_ends_no_more_than_its_record(tmp_path: Path) -> None:
    archive = site(range(3), packed=False)
    data = archive.bytes()
    start = archive.starts[1]
    at = data.index(b"Content-Length: ", start)
    end = data.index(b"\r\n", at)
    (tmp_path / "a.warc").write_bytes(data[:at] + b"Content-Length: 10000000000000000" + data[end:])
    rows, _, _ = rows_of(tmp_path / "a.warc")
    assert {row["page_url"] for row in rows} >= {"http://site.example/0.html"}


@pytest.mark.parametrize("date", ["9999-12-31T99:99:99Z", "2024-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "soon"])
def test_a_date_that_is_none(date: str, tmp_path: Path) -> None:
    archive = Archive()
    archive.record("http://site.example/", "resource", page(1), media="text/html", more={"WARC-Date": date})
    rows, broken, _ = rows_of(archive.write(tmp_path / "a.warc.gz"))
    assert broken is None and {row["crawl_date"] for row in rows} == {None}
