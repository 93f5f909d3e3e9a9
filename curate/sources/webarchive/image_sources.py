"""Where an image of a page may come from: `src`, `srcset`, and the attributes that scripts load images from."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CANDIDATE = re.compile(r"[\t\n\f\r ,]*+([^\t\n\f\r ]++)")
_DESCRIBED = re.compile(r"([^,(]*+(?:\([^)]*+\)?[^,(]*+)*+),?")
_DESCRIPTOR = re.compile(r"(?<![^\t\n\f\r ])(\d{1,9}(?:\.\d{1,9})?)([wx])(?![^\t\n\f\r ])")

_TEMPLATE = re.compile(r"\{[^{}]*\}|%7[Bb][A-Za-z_]+%7[Dd]")
_IMAGE = re.compile(r"\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?)(?![A-Za-z0-9])", re.IGNORECASE)
_STAND_IN = re.compile(
    r"(?:^|/)(?:1|1x1|blank|clear|dot|empty|grey|lazy|lazyload|loader|loading|pixel|placeholder|spacer|trans|transparent)"
    r"\.(?:gif|png|svg)(?![^?#])",
    re.IGNORECASE,
)

LAZY = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-lazyload", "data-original-src", "data-orig-file",
    "data-actualsrc", "data-url", "data-hi-res-src", "data-large-file", "data-full-src", "data-pagespeed-lazy-src",
)  # fmt: skip
"""Attributes from which scripts load an image when it is scrolled into view: `src` holds a stand-in until then."""

LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set", "lazy-srcset")
"""The same for `srcset`."""

_LAZY = frozenset((*LAZY, *LAZY_SETS))


def sources(found: dict[str, str], around: list[str]) -> Iterator[str]:
    """Yield where an image may come from, the best first: lazy attributes, src, srcset, the sources of its picture.

    What names a stand-in, or is a template, comes last.
    """
    late: list[str] = []
    for value in _sources(found, around):
        if _STAND_IN.search(value) or _TEMPLATE.search(value):
            late.append(value)
        else:
            yield value
    yield from late


def _sources(found: dict[str, str], around: list[str]) -> Iterator[str]:
    lazy = not _LAZY.isdisjoint(found)
    for name in LAZY if lazy else ():
        if (value := found.get(name)) and _usable(value) and _names_image(name, value):
            yield value
    for name in LAZY_SETS if lazy else ():
        if (value := found.get(name)) and (best := largest(value)):
            yield best
    if (value := found.get("src")) and _usable(value):
        yield value
    for value in (found.get("srcset"), *around):
        if value and (best := largest(value)):
            yield best


def _names_image(name: str, value: str) -> bool:
    """Return whether a lazy attribute holds an address of an image: no JSON, no variable, no page to share (`data-url`)."""
    if value.lstrip()[0] in "{[":
        return False
    return name != "data-url" or _IMAGE.search(value) is not None


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
