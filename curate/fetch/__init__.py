"""Fetches images from the web: politely, safely, and with a cause for every failure. The only code that opens sockets.

img2dataset alone is not enough: it reads bodies of any size, checks no addresses, ignores robots.txt, has no limits per host and
reports one cause for most failures. curate.fetch.img2dataset runs it behind a gateway that adds all of this.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from curate.fetch.errors import ERRORS
from curate.fetch.policy import FetchPolicy

__all__ = ["ERRORS", "FetchPolicy", "FetchRequest", "FetchResult", "fetch"]


class FetchRequest(NamedTuple):
    """An image to fetch; `row` identifies the result."""

    row: int
    url: str


class FetchResult(NamedTuple):
    """The bytes of an image, or the code of the failure (see curate.fetch.errors); exactly one of them is None."""

    row: int
    error: str | None
    body: bytes | None


def fetch(requests: Sequence[FetchRequest], policy: FetchPolicy) -> Generator[FetchResult | None, None, None]:
    """Yield one result per request, in any order, and None now and then while there is none. Close it to stop fetching."""
    if policy.engine == "img2dataset":
        from curate.fetch.img2dataset import fetch_with_img2dataset

        return fetch_with_img2dataset(requests, policy)
    from curate.fetch.crawl import crawl

    return crawl(requests, policy)
