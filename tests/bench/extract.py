"""Pages a second and megabytes a second of one core, from WARC and from WAT, beside the bare parse of the same bytes.

The archives are made of real pages (../shared; the test suite's own where that is absent), repeated under new URLs.
"""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curate.sources.webarchive.pairs import Options, Reading, pairs
from tests.archives import Archive, page
from tests.bench.measure import SHARED, Figure, at_least, median, rounded, scratch, seconds_of

UNCOMPRESSED = 120_000_000
REPEATS = 3
CC2DATASET = 1500 / 50  # MB/s of a core: a WAT of 1.5 GB in 50 s, as its README has it


def real_pages() -> list[bytes]:
    """Return pages that people wrote."""
    found = [path.read_bytes() for path in sorted((SHARED / "data" / "gimp_help_en_crawl").glob("*.html"))]
    for path in sorted((SHARED / "data" / "warc").rglob("example.warc.gz"))[:1]:
        found += list(_bodies(path))
    return found or [page(number, 40) for number in range(100)]


def _bodies(path: Path) -> Iterator[bytes]:
    from warcio.archiveiterator import ArchiveIterator

    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            media = record.http_headers and record.http_headers.get_header("Content-Type")
            if record.rec_type == "response" and "html" in (media or ""):
                yield record.content_stream().read()


def links_of(data: bytes) -> list[dict[str, Any]]:
    """Return the links of a page as WAT lists them."""
    from selectolax.lexbor import LexborHTMLParser

    told = {
        "a": ("A@/href", "href"),
        "img": ("IMG@/src", "src"),
        "link": ("LINK@/href", "href"),
        "script": ("SCRIPT@/src", "src"),
    }
    found = []
    for node in LexborHTMLParser(data).css(",".join(told)):
        path, name = told[str(node.tag)]
        if url := node.attributes.get(name):
            more = {"alt": node.attributes.get("alt") or ""} if node.tag == "img" else {"text": node.text(strip=True)[:60]}
            found.append({"path": path, "url": url, **more})
    return found


def write(path: Path, add: Callable[[Archive, int], None], least: int) -> tuple[int, int]:
    """Write an archive, packed as crawlers do; return its pages and its bytes unpacked."""
    number = size = 0
    with path.open("wb") as file:
        while size < least:
            archive = Archive(packed=False)
            add(archive, number)
            data = archive.bytes()
            file.write(gzip.compress(data, 6, mtime=0))
            size, number = size + len(data), number + 1
    return number, size


def run() -> list[Figure]:
    """Measure in this process, on one core: the median of some whole readings."""
    pages = real_pages()
    links = [links_of(data) for data in pages]

    def add_page(archive: Archive, number: int) -> None:
        archive.answer(f"http://{number}.example/a/b.html", pages[number % len(pages)])

    def add_wat(archive: Archive, number: int) -> None:
        archive.wat(f"http://{number}.example/a/b.html", links[number % len(pages)])

    with scratch() as folder:
        figures = []
        for name, add, bound, bare in (("warc", add_page, 50.0, _bare_warc), ("wat", add_wat, 5 * CC2DATASET, _bare_wat)):
            path = folder / f"x.{name}.gz"
            count, size = write(path, add, UNCOMPRESSED)
            gc.freeze()  # a worker's collector has nothing of what made the archives to look through
            took = [seconds_of(lambda path=path: _extract(path)) for _ in range(REPEATS)]  # type: ignore[misc]
            seconds, megabytes = median(took), size / 1e6
            more = {"pages_per_second": round(count / seconds), "pages": count, "unpacked_megabytes": round(megabytes),
                    "pairs": _extract(path), "packed_megabytes": round(path.stat().st_size / 1e6), "seconds": rounded(took),
                    "load_average": os.getloadavg()[0]}  # fmt: skip
            more |= {what: round(megabytes / seconds_of(lambda work=work, path=path: work(path))) for what, work in bare.items()}  # type: ignore[misc]
            figures.append(at_least(f"extract_{name}_per_core", megabytes / seconds, "MB/s unpacked", bound, more))
    return figures


def _extract(path: Path) -> int:
    return sum(batch.num_rows for batch in pairs(Reading(str(path), Options())))


def _iterate(path: Path) -> Iterator[bytes]:
    from fastwarc.warc import ArchiveIterator

    with path.open("rb") as file:
        for record in ArchiveIterator(file, parse_http=False):
            yield record.reader.read()


def _only_iterate(path: Path) -> None:
    for _ in _iterate(path):
        pass


def _lexbor(path: Path) -> None:
    from selectolax.lexbor import LexborHTMLParser

    for data in _iterate(path):
        LexborHTMLParser(data).css("img")


def _json(path: Path) -> None:
    for data in _iterate(path):
        json.loads(data)


def _msgspec(path: Path) -> None:
    import msgspec

    for data in _iterate(path):
        msgspec.json.decode(data)


_bare_warc = {"iterate_only_MB/s": _only_iterate, "iterate_and_lexbor_MB/s": _lexbor}
_bare_wat = {"iterate_only_MB/s": _only_iterate, "iterate_and_json_MB/s": _json, "iterate_and_msgspec_untyped_MB/s": _msgspec}
