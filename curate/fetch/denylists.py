"""Lists of hosts and URLs that are never requested."""

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


class Denylists:
    """A blocklist of hosts, including subdomains, and a list of opted-out URLs (sorted 64-bit hashes)."""

    def __init__(self, hosts: frozenset[str], urls: npt.NDArray[np.uint64]) -> None:
        self._hosts, self._urls = hosts, urls

    def check(self, url: URL) -> None:
        """Raise FetchError for a URL that is on a list."""
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


def load_denylists(policy: FetchPolicy) -> Denylists:
    """Load the lists of a policy. Raises OSError, and InputError for an invalid line."""
    hosts = _hosts(policy.blocklist, _modified(policy.blocklist)) if policy.blocklist else frozenset()
    urls = _urls(policy.opted_out, _modified(policy.opted_out)) if policy.opted_out else np.empty(0, np.uint64)
    return Denylists(hosts, urls)


def _modified(path: str) -> int:
    return Path(path).stat().st_mtime_ns


@lru_cache(4)
def _hosts(path: str, modified: int) -> frozenset[str]:
    return frozenset(_host(path, line) for line in _lines(path))


def _host(path: str, line: str) -> str:
    """Return the host in a line, spelled as in requests, without scheme, wildcard, port and path. Raises InputError."""
    try:
        host = URL(line if "://" in line else f"http://{line.removeprefix('*.').strip('.')}").raw_host
    except (ValueError, TypeError):
        host = None
    if host is None or not _HOST.fullmatch(host):
        raise InputError(f"{path}: {line[:80]!r} is not a host")
    return host.lower().rstrip(".")


@lru_cache(4)
def _urls(path: str, modified: int) -> npt.NDArray[np.uint64]:
    keys = np.fromiter((xxhash.xxh3_64_intdigest(_normalized(line).encode()) for line in _lines(path)), np.uint64)
    return np.unique(keys)


def _normalized(line: str) -> str:
    from curate.fetch.urls import parse_url

    try:
        return str(parse_url(line))
    except FetchError:
        return line


def _lines(path: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if (text := line.strip()) and not text.startswith("#"):
                yield text
