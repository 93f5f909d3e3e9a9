"""Host names as DNS has them: ASCII, by IDNA 2008 (RFC 5891) after the mapping of UTS 46."""

from __future__ import annotations


def ascii_host(host: str) -> str:
    """Return a host name in ASCII; one that is ASCII already stays as it is. Raises ValueError where IDNA 2008 refuses it.

    >>> ascii_host("Straße.example"), ascii_host("example.org")
    ('xn--strae-oqa.example', 'example.org')
    """
    if host.isascii():
        return host
    import idna

    return idna.encode(host, uts46=True).decode("ascii")  # its IDNAError is a UnicodeError, which is a ValueError
