"""URLs as they are asked for: joined, checked, and the host that they go to."""

from __future__ import annotations

from yarl import URL

from curate.fetch.errors import FetchError


def place(text: str) -> URL:
    """Return the url of a text, without user, password and fragment. Raises FetchError when it is none of http or https.

    >>> str(place(" HTTP://user:word@Example.org/a b.jpg#top "))
    'http://example.org/a%20b.jpg'
    """
    try:
        url = URL(text.strip())
        if url.scheme not in ("http", "https") or not url.host or url.port is None:
            raise FetchError("bad_url")
        return url.with_user(None).with_fragment(None)
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


def host_of(url: URL) -> str:
    """Return what limits hold for: host and port."""
    return f"{(url.host or '').lower()}:{url.port}"


def _joined(url: URL, location: str | None) -> URL:
    if location is None:
        raise FetchError("bad_url")
    try:
        return place(str(url.join(URL(location))))
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error
