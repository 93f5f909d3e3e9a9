"""The section `fetch` of a recipe: how sites are treated. Imports nothing heavy, since every recipe loads it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Literal


def _key(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class FetchPolicy:
    """What is requested from sites, and how. No setting changes facts that are already stored."""

    contact: str = _key("", "your URL or mail address, sent to every site; required for fetching")
    engine: Literal["curate", "img2dataset"] = _key(
        "curate", "the downloader; img2dataset runs behind a gateway that applies this policy"
    )
    connections: int = _key(256, "concurrent requests of one worker")
    per_host: int = _key(4, "concurrent connections to one host, by all workers of a machine")
    rate: float = _key(10.0, "requests per second to one host, by all workers of a machine; 0 = no limit")
    timeout: float = _key(30.0, "seconds per request")
    max_bytes: int = _key(50_000_000, "maximum bytes of an image")
    max_redirects: int = _key(5, "maximum redirects per image")
    retries: int = _key(2, "retries after a failed connection, 429 or 5xx")
    offline_after: int = _key(
        200, "failures by dns or connect, with no other answer before, after which a shard's fetch stops the run; 0 = never"
    )
    robots: bool = _key(default=True, doc="honour robots.txt, for the token curate")
    opt_out: tuple[str, ...] = _key(("noai", "noimageai"), "X-Robots-Tag directives to honour")
    tdm: bool = _key(default=True, doc="honour reservations of text and data mining, by header or tdmrep.json")
    blocklist: str | None = _key(None, "file of hosts to skip, with their subdomains, one per line")
    opted_out: str | None = _key(None, "file of URLs to skip, one per line")
    networks: tuple[str, ...] = _key((), "non-public networks (CIDR) that may be connected to")

    def check(self) -> None:
        """Raise ValueError for an invalid value."""
        if min(self.connections, self.per_host, self.max_bytes) < 1 or self.timeout <= 0:
            raise ValueError("connections, per_host, max_bytes and timeout must be more than 0")
        if self.per_host > 1024:
            raise ValueError("per_host must be at most 1024")
        if min(self.rate, self.max_redirects, self.retries, self.offline_after) < 0:
            raise ValueError("rate, max_redirects, retries and offline_after must be at least 0")
        if not self.contact.isprintable() or not self.contact.isascii() or set(self.contact) & set("()"):
            raise ValueError("contact must be printable ASCII without parentheses")
        for network in self.networks:
            ipaddress.ip_network(network)
