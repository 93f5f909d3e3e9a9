"""URLs as they are requested: parsed, redirected, and the host that limits apply to."""

from __future__ import annotations

import base64
from urllib.parse import unquote_to_bytes, urlsplit

from yarl import URL

from curate.core.hosts import ascii_host
from curate.fetch.errors import FetchError


def parse_url(text: str) -> URL:
    """Return a URL without user, password and fragment. Raises FetchError unless it is http or https.

    As in browsers, a backslash is a slash, and an address that begins with two slashes has a scheme (http here). Host names are
    encoded by IDNA 2008; a name that it refuses, one with symbols for instance, makes a bad URL.

    >>> str(parse_url(" HTTP://user:word@Example.org/a b.jpg#top "))
    'http://example.org/a%20b.jpg'
    >>> str(parse_url(r"//example.org\\a.jpg?b\\c"))
    'http://example.org/a.jpg?b%5Cc'
    """
    try:
        url = _url(as_browsers_read(text.strip()))
        if url.scheme not in ("http", "https") or not url.host or url.port is None:
            raise FetchError("bad_url")
        return url.with_user(None).with_fragment(None)
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


def as_browsers_read(text: str, scheme: str = "http") -> str:
    """Return an address with slashes for backslashes before its query, and with a scheme if it begins with a host."""
    end = min((at for at in (text.find("?"), text.find("#")) if at >= 0), default=len(text))
    path = text[:end].replace("\\", "/")
    return (f"{scheme}:{path}" if path.startswith("//") else path) + text[end:]


def is_inline(text: str) -> bool:
    """Return whether an address is the image itself: a data: URL."""
    return text.lstrip()[:5].lower() == "data:"


def inline(text: str) -> bytes:
    """Return what a data: URL holds (RFC 2397). Raises FetchError."""
    head, comma, body = text.strip().partition(",")
    data = unquote_to_bytes("".join(body.split()) if ";base64" in head.lower() else body)
    try:
        if not comma:
            raise FetchError("bad_url")
        return base64.b64decode(data, validate=True) if head.lower().rstrip().endswith(";base64") else data
    except ValueError as error:
        raise FetchError("bad_url") from error


def host_of(url: URL) -> str:
    """Return the key of limits per host: host and port."""
    return f"{(url.host or '').lower()}:{url.port}"


def redirect_target(url: URL, location: str | None) -> URL:
    """Return the URL that a Location header of `url` leads to. Raises FetchError."""
    if location is None:
        raise FetchError("bad_url")
    try:
        return parse_url(str(url.join(_url(as_browsers_read(location.strip(), url.scheme)))))
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


def _url(text: str) -> URL:
    """Return the url of a text. Raises ValueError; yarl alone would fall back to IDNA 2003 where IDNA 2008 refuses a host."""
    ascii_host(urlsplit(text).hostname or "")
    return URL(text)
