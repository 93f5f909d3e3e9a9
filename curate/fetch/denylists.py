"""Lists of hosts and urls that are never asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from yarl import URL

from curate.core.errors import InputError
from curate.fetch.errors import FetchError
from curate.fetch.policy import FetchPolicy

_HOST = re.compile(r"[A-Za-z0-9._\-]+|[0-9A-Fa-f:.]+")


class Refused:
    """A blocklist of hosts, with their subdomains, and a list of urls whose owners opted out (as 64-bit hashes, sorted)."""

    def __init__(self, hosts: frozenset[str], urls: npt.NDArray[np.uint64]) -> None:
        self._hosts, self._urls = hosts, urls

    def check(self, url: URL) -> None:
        """Raise FetchError for a url that is on a list."""
        if self._hosts:
            host = (url.raw_host or "").lower().rstrip(".")
            parts = host.split(".")
            if any(".".join(parts[start:]) in self._hosts for start in range(len(parts))):
                raise FetchError("blocked")
        if len(self._urls):
            key = np.uint64(xxhash.xxh3_64_intdigest(str(url).encode()))
            at = int(np.searchsorted(self._urls, key))
            if at < len(self._urls) and self._urls[at] == key:
                raise FetchError("opted_out")


def refused(policy: FetchPolicy) -> Refused:
    """Return the lists that are named. Raises OSError, InputError for a line that is no host."""
    hosts = _hosts(policy.blocklist, _stamp(policy.blocklist)) if policy.blocklist else frozenset()
    urls = _urls(policy.opted_out, _stamp(policy.opted_out)) if policy.opted_out else np.empty(0, np.uint64)
    return Refused(hosts, urls)


def _stamp(path: str) -> int:
    return Path(path).stat().st_mtime_ns


@lru_cache(4)
def _hosts(path: str, stamp: int) -> frozenset[str]:
    return frozenset(_host(path, line) for line in _lines(path))


def _host(path: str, line: str) -> str:
    """Return the host that a line names: as it is spelt in requests, whatever stands around it. Raises InputError."""
    try:
        host = URL(line if "://" in line else f"http://{line.removeprefix('*.').strip('.')}").raw_host
    except (ValueError, TypeError):
        host = None
    if host is None or not _HOST.fullmatch(host):
        raise InputError(f"{path}: {line[:80]!r} is no host")
    return host.lower().rstrip(".")


@lru_cache(4)
def _urls(path: str, stamp: int) -> npt.NDArray[np.uint64]:
    keys = np.fromiter((xxhash.xxh3_64_intdigest(_normal(line).encode()) for line in _lines(path)), np.uint64)
    return np.unique(keys)


def _normal(line: str) -> str:
    from curate.fetch.urls import place

    try:
        return str(place(line))
    except FetchError:
        return line


def _lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if (text := line.strip()) and not text.startswith("#"):
                yield text
