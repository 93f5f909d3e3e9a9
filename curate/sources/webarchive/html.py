"""A page's bytes to its images with their texts: one walk over its tags, in time and memory that are linear in the page.

No tree is built: one costs the square of the nesting (40,000 nested divs take a fast C parser two seconds, a million an
hour). Tags, attributes, comments and raw text (script, style, title, ...) are told apart as the HTML Standard's tokenizer
does. No script runs; what stands in `<noscript>` counts, what stands in `<template>` does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.entities import html5
from typing import NamedTuple

from curate.sources.records import MAX_TEXT
from curate.sources.webarchive.charset import decoded
from curate.sources.webarchive.urls import Base, base_of, resolve

MAX_PAGE = 16 << 20
"""Bytes of a page that are read."""

MAX_IMAGES = 20_000
"""Images of a page that are looked at; the rest are counted."""

_S, _NAMED = r"[\t\n\f\r ]", r"[^\t\n\f\r />]"
# names may begin with "=", values in quotes may hold anything, a tag without its end is none
_VALUE = rf"{_S}*+={_S}*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'][^\t\n\f\r >]*+)|(?=>))"
_ATTRIBUTE = rf"(=?+[^\t\n\f\r />=]++|=)(?:{_VALUE}|(?!{_S}*+=))"
_PLAIN = re.sub(r"(?<!\\)\((?!\?)", "(?:", _ATTRIBUTE)  # the same without groups
_REST = rf"(?:[\t\n\f\r /]++|{_PLAIN})*+"
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_TOLD = ("img", "image", "base", "html", "source", "picture", "figure", "figcaption", "plaintext", "template", "svg", "math")
# cases spelt out: so the engine sees by its first letter that a name is none of them
_FOUND = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in name) for name in sorted((*_TOLD, *_RAW)))
_NEVER = "[ACDEGJKLOQRUVWYZacdegjkloqruvwyz]"  # what none of them begins with
_USUAL = rf"(?:{_S}++[a-zA-Z0-9_:\-]++=(?:\"[^\"]*+\"|'[^']*+'))++[\t\n\f\r /]*+"  # attributes as nearly all are written
# what follows "<"
_COMMENT = r"!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+--!?>)"
_BOGUS = r"(?:[!?](?!--)|/[^a-zA-Z>])[^>]*+>|/>"
_OTHER = rf"/?(?:{_NEVER}|(?!(?:{_FOUND})[\t\n\f\r />])[a-zA-Z]){_NAMED}*+(?:>|{_USUAL}>|[^>\"']*+>|{_REST}>)"

_SKIP = re.compile(rf"(?:[^<]*+<(?:{_OTHER}|{_COMMENT}|{_BOGUS}|(?![a-zA-Z/!?])))*+[^<]*+")
_TAG = re.compile(rf"<(/?)([a-zA-Z]{_NAMED}*+)({_REST})>")
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_INSIDE_WORDS = "a|abbr|b|bdi|bdo|cite|code|em|font|i|kbd|mark|q|s|small|span|strong|sub|sup|u|wbr"
_INLINE = re.compile(rf"</?(?i:{_INSIDE_WORDS})(?=[\t\n\f\r />]){_REST}>|<{_COMMENT}")
_MARKUP = re.compile(rf"<(?:/?[a-zA-Z]{_NAMED}*+{_REST}>|{_COMMENT}|{_BOGUS})")
_RAW_END = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE) for name in _RAW}
_SCRIPT = re.compile(r"<script(?=[\t\n\f\r />])", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?:#(?:[xX][0-9a-fA-F]++|[0-9]++);?|([a-zA-Z][a-zA-Z0-9]*+(?:;|(?!=))))")
_LONG_NUMBER = re.compile(r"&#(?:([0-9]{9,})|[xX]([0-9a-fA-F]{9,}));?")
_CANDIDATE = re.compile(r"[\t\n\f\r ,]*+([^\t\n\f\r ]++)")
_DESCRIBED = re.compile(r"([^,(]*+(?:\([^)]*+\)?[^,(]*+)*+),?")
_DESCRIPTOR = re.compile(r"(?<![^\t\n\f\r ])(\d{1,9}(?:\.\d{1,9})?)([wx])(?![^\t\n\f\r ])")
_NUMBER = re.compile(r"[\t\n\f\r ]*([0-9]{1,9})(?:px)?[\t\n\f\r ]*")

LAZY = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-lazyload", "data-original-src", "data-orig-file",
    "data-actualsrc", "data-url", "data-hi-res-src", "data-large-file", "data-full-src",
)  # fmt: skip
"""Attributes from which scripts load an image when it is scrolled into view: `src` holds a stand-in until then."""

LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set", "lazy-srcset")
"""The same for `srcset`."""

_LAZY = frozenset((*LAZY, *LAZY_SETS))

_FIGURES = 32  # figures in figures that are told apart
_CAPTION = 8192  # characters of a caption's source: many images may share one
_AROUND = 32 << 20  # characters of surrounding text of all images of a page together


class Pair(NamedTuple):
    """An image of a page with its texts; whitespace is collapsed, what is absent or blank is None (`text` never is)."""

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
    """What is known of a page beside its bytes, all as HTTP says it."""

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
    return read_text(decoded(data[:MAX_PAGE], page.charset), page, surrounding)


def read_text(source: str, page: Page, surrounding: int = 0) -> Found:
    """Return the images of a page that is text already (see read_page)."""
    if "<" not in source:
        return Found(language=_language(page.language))
    walk = _Walk(source.replace("\0", "\ufffd") if "\0" in source else source, [] if surrounding else None)
    walk.run()
    return _Pairing(walk, page, surrounding).found()


class _Walk:
    """Goes over the tags of a page and keeps what is said of images."""

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
            skipped = _SKIP.match(self.source, at)
            stop = skipped.end() if skipped else at
            if self.texts is not None and stop > at and not self._templates:
                self._keep(at, stop)
            tag = _TAG.match(self.source, stop)
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
        """Take in a start tag; return where to go on: after it, or after the raw text that it begins."""
        name, after = tag[2].lower(), tag.end()
        if name in ("svg", "math"):
            self._foreign += not tag[3].endswith("/")
        elif name in _RAW_END:
            return after if self._foreign and tag[3].endswith("/") else self._raw_end(name, after)
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

    def _raw_end(self, name: str, at: int) -> int:
        """Return where raw text ends: at its end tag, else at the end of the page."""
        closing, start = _RAW_END[name], at
        while (found := closing.search(self.source, at)) is not None:
            if name != "script" or not self._in_escaped_script(start, found.start()):
                return found.start()
            start = at = found.end()
        return len(self.source)

    def _in_escaped_script(self, start: int, end: int) -> bool:
        """Say whether an end tag belongs to a script that stands in a comment of the script (`<!--<script>`)."""
        comment = self.source.rfind("<!--", start, end)
        if comment < 0 or self.source.find("-->", comment + 2, end) >= 0:
            return False
        return _SCRIPT.search(self.source, comment, end) is not None


@dataclass(frozen=True)
class _Pairing:
    """Makes pairs of what a walk has found."""

    walk: _Walk
    page: Page
    surrounding: int

    def found(self) -> Found:
        """Return what the page holds."""
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


def attributes(written: str) -> dict[str, str]:
    """Return the attributes of a tag as written, names in lower case, the first of several of a name.

    >>> attributes("SRC=a.jpg alt='x &amp; y' alt=z hidden")
    {'src': 'a.jpg', 'alt': 'x & y', 'hidden': ''}
    """
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTES.findall(written):
        found.setdefault(name.lower(), double or single or bare)
    for name, value in found.items():
        if "&" in value:
            found[name] = _REFERENCE.sub(_referred, value)
    return found


def _referred(reference: re.Match[str]) -> str:
    # without its semicolon a name before a letter or "=" is part of a URL: "?a=1&copy=2"
    return entities(reference[0]) if reference[1] is None else html5.get(reference[1], reference[0])


def entities(text: str) -> str:
    """Return a text with its character references resolved; numbers that no character has are replaced, however long.

    >>> entities("&amp;&#65;&#" + "0" * 5000 + "66;&#" + "9" * 5000 + ";") == "&AB\ufffd"
    True
    """
    return unescape(_LONG_NUMBER.sub(_shortened, text)) if "&#" in text else unescape(text)


def _shortened(number: re.Match[str]) -> str:
    digits = (number[1] or number[2]).lstrip("0")
    return "\ufffd" if len(digits) > 8 else f"&#{'' if number[1] else 'x'}{digits or '0'};"


def unescaped(value: str) -> str:
    """Return the value of an attribute with its character references resolved."""
    return _REFERENCE.sub(_referred, value) if "&" in value else value


def collapsed(text: str | None) -> str | None:
    """Return a text trimmed, with every run of whitespace one space; None for a blank one."""
    return " ".join(text.split()) or None if text else None


def plain_text(source: str, *, strip: bool = True) -> str:
    """Return the text of a piece of HTML, whitespace collapsed; with strip=False one space stays at either end.

    >>> plain_text(" <p>one<b>s</b></p><p>two &amp; three")
    'ones two & three'
    """
    if "<" in source:
        source = _MARKUP.sub(" ", _INLINE.sub("", source))
    text = entities(source) if "&" in source else source
    joined = " ".join(text.split())
    if strip or not text:
        return joined
    if not joined:
        return " "
    return (" " if text[0].isspace() else "") + joined + (" " if text[-1].isspace() else "")


def sources(found: dict[str, str], around: list[str]) -> Iterator[str]:
    """Yield where an image may come from, the best first: lazy attributes, src, srcset, the sources of its picture."""
    lazy = not _LAZY.isdisjoint(found)
    for name in LAZY if lazy else ():
        if (value := found.get(name)) and _usable(value) and value.lstrip()[0] not in "{[":  # JSON, or a template's variable
            yield value
    for name in LAZY_SETS if lazy else ():
        if (value := found.get(name)) and (best := largest(value)):
            yield best
    if (value := found.get("src")) and _usable(value):
        yield value
    for value in (found.get("srcset"), *around):
        if value and (best := largest(value)):
            yield best


def _usable(value: str) -> bool:
    head = value[:32].lstrip()
    return bool(head) and head[:5].lower() != "data:" and head[0] != "#"


def largest(srcset: str) -> str | None:
    """Return the URL of the largest candidate of a srcset, the first of equals; None when there is none.

    >>> largest("a.jpg 1x, b,c.jpg 640w, d.jpg 320w"), largest(" , ")
    ('b,c.jpg', None)
    """
    best, most = None, -1.0
    at = 0
    while (candidate := _CANDIDATE.match(srcset, at)) is not None:
        url, at, size = candidate[1], candidate.end(), None
        if url.endswith(","):  # no descriptor: the URL ends here
            url = url.rstrip(",")
        elif (described := _DESCRIBED.match(srcset, at)) is not None:
            at, size = described.end(), _DESCRIPTOR.search(described[1])
        value = (float(size[1]) * (1 if size[2] == "w" else 0.001)) if size else 0.001
        if url and value > most and _usable(url):
            best, most = url, value
    return best


def _number(value: str | None) -> int | None:
    found = _NUMBER.fullmatch(value) if value else None
    return int(found[1]) if found else None


def _language(value: str | None) -> str | None:
    first = (value or "").partition(",")[0].strip()
    return first[:64] or None


__all__ = ["MAX_PAGE", "Base", "Found", "Page", "Pair", "read_page", "read_text"]
