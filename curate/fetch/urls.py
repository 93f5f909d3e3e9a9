"""URLs as they are requested: parsed, redirected, and the host that limits apply to."""

from __future__ import annotations

from urllib.parse import urlsplit

from yarl import URL

from curate.core.hosts import ascii_host
from curate.fetch.errors import FetchError


def parse_url(text: str) -> URL:
    """Return a URL without user, password and fragment. Raises FetchError unless it is http or https.

    Host names are encoded by IDNA 2008; a name that it refuses, one with symbols for instance, makes a bad URL.

    >>> str(parse_url(" HTTP://user:word@Example.org/a b.jpg#top "))
    'http://example.org/a%20b.jpg'
    """
    try:
        url = _url(text.strip())
        if url.scheme not in ("http", "https") or not url.host or url.port is None:
            raise FetchError("bad_url")
        return url.with_user(None).with_fragment(None)
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


def host_of(url: URL) -> str:
    """Return the key of limits per host: host and port."""
    return f"{(url.host or '').lower()}:{url.port}"


def redirect_target(url: URL, location: str | None) -> URL:
    """Return the URL that a Location header of `url` leads to. Raises FetchError."""
    if location is None:
        raise FetchError("bad_url")
    try:
        return parse_url(str(url.join(_url(location))))
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


def _url(text: str) -> URL:
    """Return the url of a text. Raises ValueError; yarl alone would fall back to IDNA 2003 where IDNA 2008 refuses a host."""
    ascii_host(urlsplit(text).hostname or "")
    return URL(text)
