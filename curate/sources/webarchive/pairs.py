"""Web archives: the images of their pages with alt texts, in the order of the file, each pair once.

WARC responses and resources that hold HTML, Common Crawl's WAT, and ARC. The format is detected from the content, not the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from curate.core.contracts import ROW_GROUP, Batch, Shard, ShardBreak
from curate.sources.records import Record, batches
from curate.sources.webarchive import http, warc
from curate.sources.webarchive.archive import ARCHIVES, TEXTS_ONLY
from curate.sources.webarchive.html import MAX_IMAGES, MAX_PAGE, Found, Page, Pair, read_page
from curate.sources.webarchive.image_index import ImageIndex
from curate.sources.webarchive.warc import Tally

PAIR_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),  # of the image
        pa.field("text", pa.string(), nullable=False),  # of alt
        ("title", pa.string()),
        ("figcaption", pa.string()),
        ("surrounding", pa.string()),  # the text before, a newline, the text after; null unless requested
        pa.field("page_url", pa.string(), nullable=False),
        ("page_language", pa.string()),
        ("charset", pa.string()),  # that the page was read in, by its name in the Encoding Standard
        ("charset_from", pa.string()),  # header, bom, meta, xml, detected, default
        ("width", pa.int32()),  # as the page says it
        ("height", pa.int32()),
        pa.field("position", pa.int32(), nullable=False),  # among the images of the page
        ("crawl_date", pa.timestamp("s", "UTC")),
        pa.field("record", pa.int64(), nullable=False),  # where the page's record starts in the file as stored
        pa.field("count", pa.int32(), nullable=False),  # how often the pair occurs in the file; this is the first time
    ]
)

DAMAGES = {
    "damaged_record": "a record that cannot be read; the next one was found",
    "damaged_page": "a page that cannot be read; the next one was",
    "bad_chunks": "the HTTP chunks make no sense past some point",
    "bad_encoding": "the gzip, deflate, brotli or zstd data of the page is damaged, or its encoding unknown",
    "charset_detected": "the page names no charset and is no UTF-8; one was detected from its text",
    "charset_unknown": "the page names no charset, and none was detected; it was read as windows-1252",
    "bad_bytes": "the page holds bytes that its charset does not have; they became U+FFFD",
    "error_page": "the page came with a status of 400 or more; its images are left out",
    "page_cut": f"the page was longer than {MAX_PAGE >> 20} MiB, and only that much was read",
    "bad_json": "the metadata of a page is not JSON, or too large",
    "no_url": "the record has no URL of http(s)",
    "bad_image_url": "an image with an alt text has no source that is a URL of http(s)",
    "too_many_images": f"an image of a page past its first {MAX_IMAGES:,}",
    "text_cut": "an alt text was longer than what is kept",
}
"""Reasons under which something of an archive is counted as damaged or left out."""

_HEAD = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")
_SWALLOWED = re.compile(rb"\r\n\r\nWARC/1\.[01]\r\nWARC-[A-Za-z\-]+: ")  # the next record, inside one whose length is wrong
_ERROR = 400
_FIRST = 2  # records: a WET begins with its warcinfo, and all others are conversions


@dataclass(frozen=True)
class Options:
    """How archives are read: `surrounding` characters of text on each side of an image, 0 for none; pages of errors or not."""

    surrounding: int = 0
    error_pages: bool = False


class Located(NamedTuple):
    """A pair and its page."""

    pair: Pair
    page_url: str
    page: Found
    date: int | None  # seconds since 1970
    record: warc.Record


@dataclass
class Reading:
    """One archive being read: yields each pair once, and counts how often it occurs."""

    path: str
    options: Options = field(default_factory=Options)
    images: ImageIndex | None = None  # filled on the way, where it is given
    tally: Tally = field(default_factory=Tally)
    repeats: dict[int, int] = field(default_factory=dict)  # of pairs that came again: how often more than once, by pair_key
    _seen: set[int] = field(default_factory=set)

    def located(self) -> Iterator[Located]:
        """Yield pairs in document order. Raises ShardBreak where the file cannot be read any further."""
        for record in warc.records(self.path, self.tally):
            try:
                url, found = self._page(record)
            except (ValueError, OverflowError, RecursionError):  # of a library, over bytes that nobody has thought of
                self._note("damaged_page")
                continue
            if found is None or not url:
                continue
            self.tally.images += found.images
            self.tally.with_alt += found.with_alt
            self._note_charset(found)
            self._note("bad_image_url", found.unusable)
            self._note("text_cut", found.cut)
            self._note("too_many_images", found.dropped)
            date = warc.when(record) if found.pairs else None
            for pair in found.pairs:
                if self._is_new(pair):
                    yield Located(pair, url, found, date, record)

    def _is_new(self, pair: Pair) -> bool:
        self.tally.pairs += 1
        key = pair_key(pair.url, pair.text)
        if key in self._seen:
            self.repeats[key] = self.repeats.get(key, 0) + 1
            return False
        self._seen.add(key)
        return True

    def _note(self, reason: str, count: int = 1) -> None:
        if count:
            self.tally.damaged[reason] += count

    def _note_charset(self, found: Found) -> None:
        self._note("bad_bytes", found.bad_bytes)
        if found.charset_from == "default":
            self._note("charset_unknown", found.charset != "utf-8")
        elif found.charset_from == "detected":
            self._note("charset_detected", found.charset != "utf-8")

    def _page(self, record: warc.Record) -> tuple[str, Found | None]:
        """Return the URL of a record that holds a page, and its images; nothing for other records."""
        if record.kind not in ("response", "resource", "conversion", "metadata"):
            if record.kind == "revisit" and self.images is not None:
                self.images.note(record)
            return "", None
        url = (record.header("WARC-Target-URI") or "").strip("<> \t")
        if record.kind == "metadata":
            return url, self._wat(record, url)
        block = record.read(_HEAD)
        head = http.head_of(block) if record.kind == "response" else None
        if head is None:
            head = http.Head({"content-type": record.header("Content-Type") or ""}, 0)
        if record.kind == "conversion" and record.number < _FIRST and head.media() == "text/plain":
            raise ShardBreak(TEXTS_ONLY)
        if not _is_html(head, block[head.size : head.size + 256]):
            if self.images is not None and head.media().startswith("image/") and head.status == 200:
                self.images.note(record)
            return "", None
        return (url, self._html(record, url, head, block)) if self._is_wanted(url, head) else ("", None)

    def _is_wanted(self, url: str, head: http.Head) -> bool:
        """Count a page; return whether its images are used."""
        if head.status >= _ERROR and not self.options.error_pages:
            self._note("error_page")
            return False
        self.tally.pages += 1
        if not url.lower().startswith(("http://", "https://")):
            self._note("no_url")
            return False
        return True

    def _html(self, record: warc.Record, url: str, head: http.Head, block: bytes) -> Found:
        if len(block) == _HEAD:
            block += record.read(MAX_PAGE + 1)
        if b"\r\n\r\nWARC/1." in block and (swallowed := _SWALLOWED.search(block)) is not None:
            block = block[: swallowed.start()]
        body = http.body_of(head, block[head.size :], MAX_PAGE)
        for reason in body.wrong:
            self._note(reason)
        about = Page(url, head.charset(), head.fields.get("content-language"))
        return read_page(body.data, about, self.options.surrounding)

    def _wat(self, record: warc.Record, url: str) -> Found | None:
        if "json" not in (record.header("Content-Type") or ""):
            return None
        from curate.sources.webarchive.wat import MAX_WAT, is_page, read_wat

        data = record.read(MAX_WAT + 1)
        if not is_page(data):
            return None
        self.tally.pages += 1
        found = read_wat(data, url) if len(data) <= MAX_WAT else None
        if found is None:
            self._note("bad_json")
        return found


def pair_key(url: str, text: str) -> int:
    """Return a 64-bit hash of a pair. Among a billion pairs of one file, a collision has odds of one in forty."""
    return xxhash.xxh3_64_intdigest(f"{url}\0{text}".encode(errors="replace"))


def pairs(reading: Reading) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of an archive as batches of PAIR_SCHEMA of at most ROW_GROUP rows, `count` always 1.

    How often each came is known at the end, in `reading.repeats`. Raises ShardBreak after what came before the break.
    """
    stream, broken = reading.located(), None
    while broken is None:
        held: list[Located] = []
        try:
            for found in islice(stream, ROW_GROUP):
                held.append(found)
        except ShardBreak as error:
            broken = error
        if held:
            yield _batch(held)
        if len(held) < ROW_GROUP and broken is None:
            return
    raise broken


def _batch(held: list[Located]) -> pa.RecordBatch:
    rows: list[Pair] = [one.pair for one in held]
    columns: dict[str, list[Any]] = dict(zip(Pair._fields, map(list, zip(*rows, strict=True)), strict=True))
    columns["page_url"], columns["page_language"] = [one.page_url for one in held], [one.page.language for one in held]
    columns["charset"], columns["charset_from"] = [one.page.charset for one in held], [one.page.charset_from for one in held]
    columns["crawl_date"], columns["record"] = [one.date for one in held], [one.record.offset for one in held]
    columns["count"] = [1] * len(held)
    arrays = [pa.array(_plain(columns[item.name], item.type), item.type) for item in PAIR_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=PAIR_SCHEMA)


def _plain(values: list[Any], kind: pa.DataType) -> list[Any]:
    """Return values that Arrow takes: no lone surrogate, no number past 32 bits."""
    if pa.types.is_string(kind):
        return [one if one is None or one.isascii() else one.encode("utf-8", "replace").decode() for one in values]
    return values


def _is_html(head: http.Head, begin: bytes) -> bool:
    media = head.media()
    if media:
        return media in _HTML
    start = begin.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xfe\xff\t\n\f\r ").lower()
    return start.startswith((b"<!doctype html", b"<html"))


@dataclass
class ArchiveShard:
    """An archive on the local disk. Its records hold URLs, not image bytes."""

    shard: Shard
    path: str

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last good record when the archive is damaged."""
        yield from batches(islice(self._records(), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield None for each of `rows`."""
        yield from (None for _ in range(rows.num_rows))

    def _records(self) -> Iterator[Record]:
        stem = stem_of(self.shard.url)
        for pair, _, _, _, record in Reading(self.path).located():
            text = pair.text if pair.text.isascii() else pair.text.encode("utf-8", "replace").decode()
            yield Record(f"{stem}/{record.number}/{pair.position}", pair.url, text, None, None)


def stem_of(url: str) -> str:
    """Return the name of an archive without its folder and extensions.

    >>> stem_of("s3://crawl/CC-MAIN-00001.warc.wat.gz")
    'CC-MAIN-00001'
    """
    name = url.rpartition("/")[2]
    while (end := next((end for end in ARCHIVES if name.lower().endswith(end)), None)) and len(name) > len(end):
        name = name[: -len(end)]
    return name
