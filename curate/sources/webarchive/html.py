"""A page's bytes to its images with their texts: one pass over its tags, in time and memory that are linear in the page.

No tree is built: one costs the square of the nesting (40,000 nested divs take a fast C parser two seconds, a million an
hour). No script runs; the content of `<noscript>` counts, that of `<template>` does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from curate.sources.records import MAX_TEXT
from curate.sources.webarchive.charset import decoded
from curate.sources.webarchive.image_sources import LAZY_SETS, sources
from curate.sources.webarchive.markup import RAW, SKIP, TAG, attributes, collapsed, plain_text, raw_end
from curate.sources.webarchive.urls import base_of, resolve

MAX_PAGE = 16 << 20
"""Bytes of a page that are read."""

MAX_IMAGES = 20_000
"""Images of a page that are looked at; the rest are counted."""

_NUMBER = re.compile(r"[\t\n\f\r ]*([0-9]{1,9})(?:px)?[\t\n\f\r ]*")

_FIGURES = 32  # nested figures that are told apart
_CAPTION = 8192  # characters of a caption's source: many images may share one
_AROUND = 32 << 20  # characters of surrounding text of all images of a page together


class Pair(NamedTuple):
    """An image of a page with its texts; whitespace is collapsed, an absent or blank text is None (`text` never is)."""

    url: str
    text: str  # of `alt`
    title: str | None
    figcaption: str | None
    surrounding: str | None  # the text before, a newline, the text after
    width: int | None
    height: int | None
    position: int  # among all img elements of the page, from 0


@dataclass(frozen=True)
class Page:
    """What HTTP says about a page."""

    url: str
    charset: str | None = None
    language: str | None = None


@dataclass
class Found:
    """The images of a page: its pairs, and how many images, images with an alt, and images with an alt but no usable URL."""

    pairs: list[Pair] = field(default_factory=list)
    language: str | None = None
    images: int = 0
    with_alt: int = 0
    unusable: int = 0
    cut: int = 0  # pairs with a text that was longer than MAX_TEXT
    dropped: int = 0  # images past MAX_IMAGES
    charset: str | None = None  # and where it was found: see charset.Decoded
    charset_from: str | None = None
    bad_bytes: bool = False


@dataclass
class _Figure:
    caption: str | None = None
    begin: int | None = None  # of the caption that is open


class _Image(NamedTuple):
    attributes: dict[str, str]
    sources: list[str]
    figure: _Figure | None
    position: int
    offset: int  # in the document's text


def read_page(data: bytes, page: Page, surrounding: int = 0) -> Found:
    """Return the images of a page's first MAX_PAGE bytes; `surrounding` characters of text on each side, 0 for none."""
    text, charset, charset_from, bad = decoded(data[:MAX_PAGE], page.charset)
    found = read_text(text, page, surrounding)
    found.charset, found.charset_from, found.bad_bytes = charset, charset_from, bad
    return found


def read_text(source: str, page: Page, surrounding: int = 0) -> Found:
    """Return the images of a page that is text already (see read_page)."""
    if "<" not in source:
        return Found(language=_language(page.language))
    walk = _Walk(source.replace("\0", "\ufffd") if "\0" in source else source, [] if surrounding else None)
    walk.run()
    return _Pairing(walk, page, surrounding).found()


class _Walk:
    """Goes over the tags of a page and keeps the images and their texts."""

    def __init__(self, source: str, texts: list[str] | None) -> None:
        self.source, self.texts = source, texts
        self.images: list[_Image] = []
        self.seen = 0
        self.base: str | None = None
        self.language: str | None = None
        self._offset = 0
        self._figures: list[_Figure] = []
        self._sources: list[str] = []
        self._in_picture = False
        self._templates = self._foreign = 0

    def run(self) -> None:
        at, end = 0, len(self.source)
        while at < end:
            skipped = SKIP.match(self.source, at)
            stop = skipped.end() if skipped else at
            if self.texts is not None and stop > at and not self._templates:
                self._keep(at, stop)
            tag = TAG.match(self.source, stop)
            if tag is None:  # the end, or what has no end
                break
            at = self._close(tag) if tag[1] else self._open(tag)
        for figure in self._figures:
            self._end_caption(figure, end)

    def _keep(self, at: int, stop: int) -> None:
        assert self.texts is not None
        text = plain_text(self.source[at:stop], strip=False)
        if self.texts and self.texts[-1].endswith(" "):
            text = text.removeprefix(" ")
        if text:
            self.texts.append(text)
            self._offset += len(text)

    def _open(self, tag: re.Match[str]) -> int:
        """Handle a start tag; return where to continue: after it, or after the raw text that it begins."""
        name, after = tag[2].lower(), tag.end()
        if name in ("svg", "math"):
            self._foreign += not tag[3].endswith("/")
        elif name in RAW:
            return after if self._foreign and tag[3].endswith("/") else raw_end(self.source, name, after)
        elif name == "plaintext":
            return len(self.source)
        elif name == "template":
            self._templates += 1
        elif not self._templates:
            self._known(name, tag)
        return after

    def _known(self, name: str, tag: re.Match[str]) -> None:
        if name == "img" or (name == "image" and not self._foreign):
            self._image(tag[3])
        elif name == "base":
            self.base = self.base if self.base is not None else attributes(tag[3]).get("href")
        elif name == "html":
            self.language = self.language or attributes(tag[3]).get("lang")
        elif name == "picture":
            self._in_picture, self._sources = True, []
        elif name == "source" and self._in_picture:
            found = attributes(tag[3])
            self._sources += [found[name] for name in (*LAZY_SETS, "srcset") if found.get(name)][:1]
        elif name == "figure":
            if len(self._figures) < _FIGURES:
                self._figures.append(_Figure())
        elif name == "figcaption" and self._figures and self._figures[-1].begin is None and self._figures[-1].caption is None:
            self._figures[-1].begin = tag.end()

    def _image(self, written: str) -> None:
        if len(self.images) == MAX_IMAGES:
            self.seen += 1
            return
        found, figure = attributes(written), self._figures[-1] if self._figures else None
        self.images.append(_Image(found, self._sources if self._in_picture else [], figure, self.seen, self._offset))
        self.seen += 1

    def _close(self, tag: re.Match[str]) -> int:
        name = tag[2].lower()
        if name in ("svg", "math"):
            self._foreign = max(0, self._foreign - 1)
        elif name == "template":
            self._templates = max(0, self._templates - 1)
        elif name == "picture":
            self._in_picture = False
        elif name == "figcaption" and self._figures:
            self._end_caption(self._figures[-1], tag.start())
        elif name == "figure" and self._figures:
            self._end_caption(self._figures.pop(), tag.start())
        return tag.end()

    def _end_caption(self, figure: _Figure, end: int) -> None:
        if figure.begin is not None:
            figure.caption = plain_text(self.source[figure.begin : min(end, figure.begin + _CAPTION)]) or None
            figure.begin = None


@dataclass(frozen=True)
class _Pairing:
    """Makes pairs from the results of a walk."""

    walk: _Walk
    page: Page
    surrounding: int

    def found(self) -> Found:
        """Return the images of the page."""
        walk, base = self.walk, base_of(self.page.url)
        if walk.base is not None and (href := resolve(base, walk.base)) is not None:
            base = base_of(href)
        found = Found(language=_language(walk.language) or _language(self.page.language), images=walk.seen)
        found.dropped = walk.seen - len(walk.images)
        document = "".join(walk.texts or ())
        for image in walk.images:
            text = collapsed(image.attributes.get("alt"))
            if text is None:
                continue
            found.with_alt += 1
            url = next((url for source in sources(image.attributes, image.sources) if (url := resolve(base, source))), None)
            if url is None:
                found.unusable += 1
                continue
            found.cut += len(text) > MAX_TEXT
            found.pairs.append(self._pair(image, url, text, document))
        return found

    def _pair(self, image: _Image, url: str, text: str, document: str) -> Pair:
        caption = image.figure.caption if image.figure else None
        title = collapsed(image.attributes.get("title"))
        width, height = (_number(image.attributes.get(name)) for name in ("width", "height"))
        around = self._around(document, image.offset) if self.surrounding else None
        texts = (text[:MAX_TEXT], title and title[:MAX_TEXT], caption and caption[:MAX_TEXT], around)
        return Pair(url, *texts, width, height, image.position)

    def _around(self, document: str, offset: int) -> str | None:
        size = min(self.surrounding, _AROUND // len(self.walk.images))
        before, after = document[max(0, offset - size) : offset].strip(), document[offset : offset + size].strip()
        return f"{before}\n{after}" if before or after else None


def _number(value: str | None) -> int | None:
    found = _NUMBER.fullmatch(value) if value else None
    return int(found[1]) if found else None


def _language(value: str | None) -> str | None:
    first = (value or "").partition(",")[0].strip()
    return first[:64] or None
