"""WAT: the metadata of each page that Common Crawl publishes, as JSON. Only the part about images is decoded."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from curate.sources.records import MAX_TEXT
from curate.sources.webarchive.charset import codec, name_of
from curate.sources.webarchive.html import MAX_IMAGES, MAX_PAGE, Found, Page, Pair
from curate.sources.webarchive.http import charset_of
from curate.sources.webarchive.image_sources import LAZY
from curate.sources.webarchive.markup import collapsed, unescaped
from curate.sources.webarchive.urls import base_of, resolve

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


class _Html(msgspec.Struct, rename={"head": "Head"}):
    head: _Head = msgspec.field(default_factory=_Head)


class _Linked(_Html, rename={"links": "Links"}):
    links: list[_Link] = []


T = TypeVar("T", bound=_Html)


class _Http(msgspec.Struct, Generic[T], rename={"headers": "Headers", "html": "HTML-Metadata"}):
    headers: dict[str, Any] = {}
    html: T | None = None


class _Payload(msgspec.Struct, Generic[T], rename={"http": "HTTP-Response-Metadata"}):
    http: _Http[T] | None = None


class _Envelope(msgspec.Struct, Generic[T], rename={"payload": "Payload-Metadata"}):
    payload: _Payload[T] = msgspec.field(default_factory=_Payload)


class _Wat(msgspec.Struct, Generic[T], rename={"envelope": "Envelope"}):
    envelope: _Envelope[T] = msgspec.field(default_factory=_Envelope)


_DECODER = msgspec.json.Decoder(_Wat[_Html])
_WHOLE = msgspec.json.Decoder(_Wat[_Linked])
_LINK = msgspec.json.Decoder(_Link)
_SIGN = b'"IMG@/'


def is_page(data: bytes) -> bool:
    """Return whether the JSON describes a response of a server."""
    return b'"HTTP-Response-Metadata"' in data


def read_wat(data: bytes, url: str) -> Found | None:
    """Return the images in the metadata of a page; None when it is not such JSON."""
    if b"IMG@" not in data:
        return Found()
    try:
        http = _DECODER.decode(data).envelope.payload.http
        links = _links(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):  # a ValidationError is a DecodeError
        return None
    if http is None or http.html is None:
        return Found()
    headers = {name.lower(): value for name, value in http.headers.items()} if links else {}
    found = _found(http.html.head, links, Page(url, language=_language(headers)))
    found.charset = _charset(headers)
    found.charset_from = None if found.charset is None else "header"
    return found


def _links(data: bytes) -> list[_Link]:
    """Return the links of images without decoding the others: each is an object that holds no other one.

    A brace inside a text makes no JSON of what is cut out at it; then all links of the page are decoded.
    """
    found, last, end = [], 0, -1
    at = data.find(_SIGN)
    while at >= 0:
        begin, end = data.rfind(b"{", last, at), data.find(b"}", at) if end < at else end
        try:
            link = _LINK.decode(data[begin : end + 1] if begin >= 0 else b"")
        except msgspec.DecodeError:
            http = _WHOLE.decode(data).envelope.payload.http
            return [link for link in http.html.links if link.path in _PATHS] if http and http.html else []
        if link.path in _PATHS:
            found.append(link)
        last = end
        at = data.find(_SIGN, end)
    return found


def _language(headers: dict[str, Any]) -> str | None:
    value = headers.get("content-language")
    return value.partition(",")[0].strip()[:64] or None if isinstance(value, str) else None


def _charset(headers: dict[str, Any]) -> str | None:
    """Return the charset of HTTP. Which one the texts were read in, the metadata does not say."""
    value = headers.get("content-type")
    name = codec(charset_of(value)) if isinstance(value, str) else None
    return None if name is None else name_of(name)


def _found(head: _Head, links: list[_Link], page: Page) -> Found:
    base = base_of(page.url)
    if head.base and (href := resolve(base, unescaped(head.base))) is not None:
        base = base_of(href)
    found = Found(language=page.language)
    found.dropped = max(0, len(links) - MAX_IMAGES)
    for position, link in enumerate(links[:MAX_IMAGES]):
        if not link.alt or (text := collapsed(unescaped(link.alt))) is None:
            continue
        found.with_alt += 1
        url = resolve(base, unescaped(link.url)) if link.url and link.url[:5].lower() != "data:" else None
        if url is None:
            found.unusable += 1
            continue
        found.cut += len(text) > MAX_TEXT
        title = collapsed(unescaped(link.title)) if link.title else None
        found.pairs.append(Pair(url, text[:MAX_TEXT], title and title[:MAX_TEXT], None, None, None, None, position))
    found.images = len(links)
    return found
