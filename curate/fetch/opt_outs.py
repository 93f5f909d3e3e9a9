"""Parsers for robots.txt (RFC 9309), X-Robots-Tag and the TDM reservation protocol. No network access."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protego import Protego

AGENT = "curate"
"""The product token that rules are looked up by."""

MAX_RULES = 500 << 10
"""Bytes of a robots.txt that are read: the minimum that RFC 9309 requires."""

MAX_PATTERNS = 1000
"""Reserved locations of a site; a site with more of them is treated as fully reserved."""

MAX_DELAY = 60.0
"""Upper bound for a Crawl-delay, in seconds."""

_TOKEN = re.compile(r"[a-z_*][a-z0-9_*.\-]*")
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class Rules:
    """The rules of a site. If they could not be loaded, `unavailable` is the error code and nothing is fetched from the site."""

    robots: Protego | None = None
    reserved: tuple[str, ...] = ()  # path patterns for which text and data mining is reserved
    unavailable: str | None = None

    def refuses(self, url: str, path: str) -> str | None:
        """Return the error code if a URL (`path` with its query) may not be fetched, else None."""
        if self.unavailable is not None:
            return self.unavailable
        if self.robots is not None and not self.robots.can_fetch(url, AGENT):
            return "robots"
        return "tdm_reserved" if any(covers(one, path) for one in self.reserved) else None

    def delay(self) -> float:
        """Return the Crawl-delay in seconds, at most MAX_DELAY."""
        found = self.robots.crawl_delay(AGENT) if self.robots is not None else None
        return min(max(float(found or 0), 0.0), MAX_DELAY)


def parse_robots(body: bytes) -> Protego | None:
    """Parse a robots.txt; None if it is empty."""
    from protego import Protego

    text = body[:MAX_RULES].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    return Protego.parse(text) if text.strip() else None


def parse_tdmrep(body: bytes) -> tuple[str, ...]:
    """Return the path patterns that a tdmrep.json reserves: none for an invalid file, everything for an oversized one."""
    if len(body) >= MAX_RULES:
        return ("/",)
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and str(entry.get("tdm-reservation")) == "1" and isinstance(entry.get("location"), str):
            found.append(entry["location"])
    return tuple(found) if len(found) <= MAX_PATTERNS else ("/",)


def covers(location: str, path: str) -> bool:
    """Return whether a location matches a path: a prefix, with * for anything and $ for the end, as in robots.txt.

    Runs in linear time, because locations come from untrusted sites.

    >>> covers("/art/*.jpg$", "/art/a/b.jpg"), covers("/art/*.jpg$", "/art/a.jpg?x"), covers("/art", "/artist")
    (True, False, True)
    """
    end = location.endswith("$")
    first, *others = location.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not others:
        return not end or path == first
    at, last = len(first), others.pop()
    for part in others:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return path.endswith(last) and len(path) - len(last) >= at if end else path.find(last, at) >= 0


def opted_out(tags: Iterable[str], honoured: Sequence[str]) -> bool:
    """Return whether X-Robots-Tag values have a directive in `honoured` that applies to all agents or to ours.

    >>> opted_out(["noindex, NoAI"], ["noai"]), opted_out(["otherbot: noai"], ["noai"]), opted_out(["curate: noai"], ["noai"])
    (True, False, True)
    """
    directives = {directive.lower() for directive in honoured}
    for tag in tags:
        ours = True
        for part in tag.lower().split(","):
            scope, colon, directive = part.partition(":")
            if colon and (scope.strip() in _WITH_VALUE or not _TOKEN.fullmatch(scope.strip())):
                continue  # a value, or part of a date, which contains commas and colons
            if colon:
                ours = scope.strip() == AGENT
            if ours and (directive if colon else part).strip() in directives:
                return True
    return False


def tdm_reserved(headers: Mapping[str, str]) -> bool:
    """Return whether the headers of a response reserve text and data mining."""
    return headers.get("tdm-reservation", "").strip() == "1"
