"""Fetching images from the web: politely, safely, each failure with its cause.

Why img2dataset alone is not enough: it reads bodies without a bound, checks no addresses, knows neither robots.txt nor limits of
hosts, and gives one cause for most failures (see curate.fetch.img2dataset, through which it can be had with all of that).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from curate.fetch.errors import ERRORS
from curate.fetch.policy import FetchPolicy

__all__ = ["ERRORS", "FetchPolicy", "Got", "Wanted", "fetch"]


class Wanted(NamedTuple):
    """An image to fetch."""

    row: int
    url: str


class Got(NamedTuple):
    """What came: an image, or the code of curate.fetch.errors that says why there is none."""

    row: int
    error: str | None
    body: bytes | None


def fetch(wanted: Sequence[Wanted], policy: FetchPolicy) -> Generator[Got | None, None, None]:
    """Yield what comes of each wanted image, in any order, each once; None while nothing comes. Close it to end all."""
    if policy.engine == "img2dataset":
        from curate.fetch.img2dataset import through_img2dataset

        return through_img2dataset(wanted, policy)
    from curate.fetch.frontier import crawl

    return crawl(wanted, policy)
