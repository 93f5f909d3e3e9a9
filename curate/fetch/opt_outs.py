"""What a site reserves: robots.txt (RFC 9309), X-Robots-Tag, and the TDM reservation protocol. Parsers; no network here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protego import Protego

AGENT = "curate"
"""The product token by which rules are looked up."""

MAX_RULES = 500 << 10
"""Bytes of a robots.txt that are read, as RFC 9309 wants at least."""

MAX_PATTERNS = 1000
"""Reserved locations of a site; one that has more of them reserves all."""

MAX_DELAY = 60.0
"""Seconds of a Crawl-delay that are obeyed."""

_TOKEN = re.compile(r"[a-z_*][a-z0-9_*.\-]*")
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class Rules:
    """What a site says of its paths. `unheard` is the code of why it could not be asked: then nothing of it is fetched."""

    robots: Protego | None = None
    reserved: tuple[str, ...] = ()  # patterns of paths whose text and data mining is reserved
    unheard: str | None = None

    def refuses(self, url: str, path: str) -> str | None:
        """Return why a url (with its path and query) may not be fetched, as a code, or None."""
        if self.unheard is not None:
            return self.unheard
        if self.robots is not None and not self.robots.can_fetch(url, AGENT):
            return "robots"
        return "tdm_reserved" if any(covers(one, path) for one in self.reserved) else None

    def delay(self) -> float:
        """Return the seconds that the site wants between two requests."""
        found = self.robots.crawl_delay(AGENT) if self.robots is not None else None
        return min(max(float(found or 0), 0.0), MAX_DELAY)


def robots(body: bytes) -> Protego | None:
    """Return the rules of a robots.txt; None where it says nothing."""
    from protego import Protego

    text = body[:MAX_RULES].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    return Protego.parse(text) if text.strip() else None


def reserved(body: bytes) -> tuple[str, ...]:
    """Return the patterns of paths that a tdmrep.json reserves: of what is no such file none, of a huge one everything."""
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
    """Return whether a path is of a location: a prefix, with * for anything and $ for the end, as in robots.txt.

    Linear in both: the location is a stranger's.

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
    """Return whether values of X-Robots-Tag hold a directive that is honoured, for everybody or for us.

    >>> opted_out(["noindex, NoAI"], ["noai"]), opted_out(["otherbot: noai"], ["noai"]), opted_out(["curate: noai"], ["noai"])
    (True, False, True)
    """
    wanted = {directive.lower() for directive in honoured}
    for tag in tags:
        ours = True
        for part in tag.lower().split(","):
            scope, colon, directive = part.partition(":")
            if colon and (scope.strip() in _WITH_VALUE or not _TOKEN.fullmatch(scope.strip())):
                continue  # a date has commas and colons in it
            if colon:
                ours = scope.strip() == AGENT
            if ours and (directive if colon else part).strip() in wanted:
                return True
    return False


def tdm_reserved(headers: Mapping[str, str]) -> bool:
    """Return whether an answer reserves text and data mining."""
    return headers.get("tdm-reservation", "").strip() == "1"
