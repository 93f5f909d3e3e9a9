"""WAT: the metadata that Common Crawl publishes of each page, as JSON. Only what tells of images is decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from curate.sources.html import LAZY, MAX_IMAGES, MAX_PAGE, Found, Page, Pair, collapsed, unescaped
from curate.sources.records import MAX_TEXT
from curate.sources.urls import base_of, resolve

MAX_WAT = 4 * MAX_PAGE
"""Bytes of the JSON of one page."""

_PATHS = frozenset(f"IMG@/{name}" for name in ("src", *LAZY))


class _Link(msgspec.Struct, gc=False):
    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""


class _Head(msgspec.Struct, gc=False, rename={"base": "Base"}):
    base: str = ""


class _Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}):
    head: _Head = msgspec.field(default_factory=_Head)
    links: list[_Link] = []


class _Http(msgspec.Struct, rename={"headers": "Headers", "html": "HTML-Metadata"}):
    headers: dict[str, Any] = {}
    html: _Html = msgspec.field(default_factory=_Html)


class _Payload(msgspec.Struct, rename={"http": "HTTP-Response-Metadata"}):
    http: _Http | None = None


class _Envelope(msgspec.Struct, rename={"payload": "Payload-Metadata"}):
    payload: _Payload = msgspec.field(default_factory=_Payload)


class _Wat(msgspec.Struct, rename={"envelope": "Envelope"}):
    envelope: _Envelope = msgspec.field(default_factory=_Envelope)


_DECODER = msgspec.json.Decoder(_Wat)


def is_page(data: bytes) -> bool:
    """Say whether the JSON tells of what a server answered."""
    return b'"HTTP-Response-Metadata"' in data


def read_wat(data: bytes, url: str) -> Found | None:
    """Return the images that a page's metadata tells of; None when it is not such JSON."""
    if b"IMG@" not in data:
        return Found()
    try:
        http = _DECODER.decode(data).envelope.payload.http
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):  # a ValidationError is a DecodeError
        return None
    if http is None:
        return Found()
    return _found(http, Page(url, language=_language(http.headers)))


def _language(headers: dict[str, Any]) -> str | None:
    value = next((value for name, value in headers.items() if name.lower() == "content-language"), None)
    return value.partition(",")[0].strip()[:64] or None if isinstance(value, str) else None


def _found(http: _Http, page: Page) -> Found:
    base = base_of(page.url)
    if http.html.head.base and (href := resolve(base, unescaped(http.html.head.base))) is not None:
        base = base_of(href)
    found = Found(language=page.language)
    links = [link for link in http.html.links if link.path in _PATHS]
    found.dropped = max(0, len(links) - MAX_IMAGES)
    for link in links[:MAX_IMAGES]:
        position, found.images = found.images, found.images + 1
        text = collapsed(unescaped(link.alt)) if link.alt else None
        if text is None:
            continue
        found.with_alt += 1
        url = resolve(base, unescaped(link.url)) if link.url and link.url[:5].lower() != "data:" else None
        if url is None:
            found.unusable += 1
            continue
        found.cut += len(text) > MAX_TEXT
        title = collapsed(unescaped(link.title)) if link.title else None
        found.pairs.append(Pair(url, text[:MAX_TEXT], title and title[:MAX_TEXT], None, None, None, None, position))
    found.images += found.dropped
    return found
