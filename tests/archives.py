"""Web archives as other people's tools write them, for the tests of what reads them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2024-05-18T01:58:10Z"


class Archive:
    """A WARC that is being written; records have fixed ids, so the same calls give the same bytes."""

    status = "200 OK"  # of the next answers

    def __init__(self, packed: bool = True) -> None:
        self.file = io.BytesIO()
        self.starts: list[int] = []
        self._writer = WARCWriter(self.file, gzip=packed)

    def answer(self, url: str, body: bytes, headers: Mapping[str, str] | None = None, kind: str = "response") -> None:
        """Write what a server answered."""
        told = list({"Content-Type": "text/html", **(headers or {})}.items())
        http = StatusAndHeaders(self.status, told, protocol="HTTP/1.1") if kind != "resource" else None
        self.record(url, kind, body, http, told[0][1])

    def record(
        self, url: str, kind: str, body: bytes, http: Any = None, media: str = "", more: Mapping[str, str] | None = None
    ) -> None:
        """Write any record."""
        self.starts.append(self.file.tell())
        told = {"WARC-Date": DATE, "WARC-Record-ID": f"<urn:uuid:{len(self.starts):032x}>", **(more or {})}
        record = self._writer.create_warc_record(
            url, kind, payload=io.BytesIO(body), length=len(body), http_headers=http, warc_headers_dict=told,
            warc_content_type=media if http is None else "",
        )  # fmt: skip
        self._writer.write_record(record)

    def wat(self, url: str, links: Iterable[Mapping[str, Any]], base: str | None = None) -> None:
        """Write the metadata of a page, as Common Crawl does."""
        head = {"Title": "t", **({"Base": base} if base else {})}
        http = {
            "Headers": {"Content-Language": "de, en", "Content-Type": "text/html; charset=latin1"},
            "HTML-Metadata": {"Head": head, "Links": list(links)},
        }
        told = {"Container": {"Offset": "1"}, "Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": http}}}
        self.record(url, "metadata", json.dumps(told).encode(), media="application/json")

    def bytes(self) -> bytes:
        """Return all of it."""
        return self.file.getvalue()

    def write(self, path: Path) -> Path:
        """Write it to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes())
        return path


def page(number: int, images: int = 2) -> bytes:
    """Return a page with images of its own."""
    tags = "".join(f"<p>word <img src='/{number}/{place}.jpg' alt='image {place} of page {number}'>" for place in range(images))
    return f"<html lang=en><body>{tags}<img src=/logo.png alt=logo></body></html>".encode()


def site(pages: Iterable[int], packed: bool = True) -> Archive:
    """Return an archive of such pages."""
    archive = Archive(packed)
    for number in pages:
        archive.answer(f"http://site.example/{number}.html", page(number))
    return archive


def arc(pages: Iterable[int], packed: bool) -> bytes:
    """Return an ARC of such pages, written by hand: no tool writes it any more."""
    about = b"1 0 test\nURL IP-address Archive-date Content-type Archive-length\n"
    records = [b"filedesc://x.arc 0.0.0.0 20240518015810 text/plain %d\n" % len(about) + about + b"\n"]
    for number in pages:
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(number)
        records.append(b"http://site.example/%d.html 1.2.3.4 20240518015810 text/html %d\n" % (number, len(body)) + body + b"\n")
    return b"".join(gzip.compress(one, mtime=0) if packed else one for one in records)
