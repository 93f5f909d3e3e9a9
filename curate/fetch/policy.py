"""How sites are treated: the recipe's section `fetch`. Light to import, so that every recipe can have it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Literal


def _key(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class FetchPolicy:
    """What is asked of sites, and how. None of it changes facts that are known already."""

    contact: str = _key("", "URL or mail address of yours that is sent to every site; nothing is fetched without")
    engine: Literal["curate", "img2dataset"] = _key("curate", "who downloads; img2dataset does so through a gateway of ours")
    connections: int = _key(256, "requests of one worker at once")
    per_host: int = _key(4, "connections to one host at once, of all workers of a machine")
    rate: float = _key(10.0, "requests a second to one host, of all workers of a machine; 0 = no limit")
    timeout: float = _key(30.0, "seconds for one request")
    max_bytes: int = _key(50_000_000, "bytes of one image")
    max_redirects: int = _key(5, "redirects that are followed")
    retries: int = _key(2, "times that is asked again after a failed connection, 429 or 5xx")
    robots: bool = _key(default=True, doc="robots.txt is honoured, for the token curate")
    opt_out: tuple[str, ...] = _key(("noai", "noimageai"), "directives of X-Robots-Tag that are honoured")
    tdm: bool = _key(default=True, doc="reservations of text and data mining are honoured: by header or tdmrep.json")
    blocklist: str | None = _key(None, "file of hosts that are never asked, one a line; their subdomains neither")
    opted_out: str | None = _key(None, "file of URLs that are never asked, one a line")
    networks: tuple[str, ...] = _key((), "networks (CIDR) that are not public and may be connected to all the same")

    def check(self) -> None:
        """Raise ValueError for a value that nobody can keep."""
        if min(self.connections, self.per_host, self.max_bytes) < 1 or self.timeout <= 0:
            raise ValueError("connections, per_host, max_bytes and timeout must be more than 0")
        if self.per_host > 1024:
            raise ValueError("per_host must be at most 1024")
        if min(self.rate, self.max_redirects, self.retries) < 0:
            raise ValueError("rate, max_redirects and retries must be at least 0")
        if not self.contact.isprintable() or not self.contact.isascii() or set(self.contact) & set("()"):
            raise ValueError("contact must be printable ASCII without parentheses")
        for network in self.networks:
            ipaddress.ip_network(network)
