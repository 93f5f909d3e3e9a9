"""Allows connections to public addresses only, so that no URL of a crawl can reach the crawler's own network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def permitted(address: str, networks: Sequence[Network] = ()) -> bool:
    """Return whether an address is public or in one of `networks`. An IPv4 address embedded in an IPv6 one is checked too.

    >>> permitted("93.184.216.34"), permitted("169.254.169.254"), permitted("::ffff:10.0.0.1"), permitted("2002:7f00:1::")
    (True, False, False, False)
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    addresses = [found, *_embedded(found)]
    if any(found in network for network in networks if network.version == found.version):
        return True
    return all(_public(one) or any(one in network for network in networks if network.version == one.version) for one in addresses)


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address in _NAT64 or address.ipv4_mapped is not None):
        return True  # as public as the embedded address
    local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or local)


def _embedded(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    if address.teredo is not None:
        found.append(address.teredo[1])
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse networks in CIDR notation. Raises ValueError."""
    return tuple(map(ipaddress.ip_network, texts))


class ForbiddenAddress(OSError):
    """A connection to an address that is not public was refused."""


class SocketFactory:
    """Opens sockets after checking the address to connect to, whatever its name resolved to before (DNS rebinding)."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def __call__(self, info: tuple[int, int, int, str, tuple[str | int, ...]]) -> socket.socket:
        """Return an unconnected socket for an entry of getaddrinfo. Raises ForbiddenAddress."""
        family, kind, protocol, _, where = info
        if not permitted(str(where[0]), self._networks):
            raise ForbiddenAddress(f"{where[0]} is not a public address")
        return socket.socket(family, kind, protocol)
