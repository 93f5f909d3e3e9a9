"""URLs as a page writes them to URLs that can be fetched: after the URL Standard, for http and https only."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import quote

from curate.core.hosts import ascii_host

MAX_URL = 8192
"""Characters of the longest URL that is used."""

_TRIM = "".join(map(chr, range(0x21)))
_BLANKS = str.maketrans("", "", "\t\n\r")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
# what nearly all are: nothing in them to trim, quote or take away
_CALM = r"[A-Za-z0-9_\-+,~!$'()*;@=&]"
_PART = rf"(?:{_CALM}|\.)"
_SIMPLE = re.compile(
    rf"(?:(https?://(?!xn--|[0-9])[a-z0-9\-]++(?:\.[a-z][a-z0-9\-]*+)++(?=/)(?:/{_CALM}{_PART}*+)*+/?)|(/?(?:{_CALM}{_PART}*+/)*+{_CALM}{_PART}*+))"
    rf"(?:\?(?:{_PART}|[/:?%])*+)?"
)
_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"[^\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]+")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+\]")
_UNSAFE = re.compile(r"[^!#-;=?-_a-z{|}~]+")  # what a browser would write with percent signs
_PATH = str.maketrans({"{": "%7B", "}": "%7D", "^": "%5E"})  # what stays as it is in a query only
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"<>`')


@dataclass(frozen=True)
class Base:
    """What relative URLs are resolved against."""

    scheme: str
    host: str  # with the port, where it is not the scheme's
    path: str
    query: str  # with its question mark

    @functools.cached_property
    def folder(self) -> str:
        """Return the path up to its last slash."""
        return self.path[: self.path.rfind("/") + 1]

    def url(self) -> str:
        """Return it as a URL."""
        return f"{self.scheme}://{self.host}{self.path}{self.query}"


def base_of(url: str) -> Base | None:
    """Return a page's URL as a base; None where it is no URL of http or https."""
    return _resolved(None, url)


def resolve(base: Base | None, reference: str) -> str | None:
    """Return the URL that `reference` means on a page at `base`, without fragment; None where that is none of http(s).

    >>> resolve(base_of("http://a.example/b/c.html"), " ../d e.jpg#top ")
    'http://a.example/d%20e.jpg'
    >>> resolve(None, "javascript:void(0)") is resolve(None, "http://[") is None
    True
    """
    if (simple := _SIMPLE.fullmatch(reference)) is not None and len(reference) <= MAX_URL:
        if simple[1]:
            return reference
        if base is not None and simple[2]:
            return f"{base.scheme}://{base.host}{'' if reference[0] == '/' else base.folder}{reference}"
    found = _resolved(base, reference)
    return None if found is None else found.url()


def _resolved(base: Base | None, reference: str) -> Base | None:
    if len(reference) > MAX_URL:
        return None
    text = reference.strip(_TRIM).translate(_BLANKS).partition("#")[0]
    scheme, rest = base.scheme if base else "", text
    if (named := _SCHEME.match(text)) is not None:
        scheme, rest = named[1].lower(), text[named.end() :]
        if scheme not in _PORTS:
            return None
        if base is None or scheme != base.scheme or rest[:1] in ("/", "\\"):
            if rest[:2].replace("\\", "/") != "//" and base is not None and scheme == base.scheme:
                return _on_host(base, rest)  # http:/path, as browsers have always read it
            return _absolute(scheme, rest.lstrip("/\\"))
    if base is None:
        return None
    if rest[:2].replace("\\", "/") == "//":
        return _absolute(scheme, rest.lstrip("/\\"))
    return _on_host(base, rest)


def _on_host(base: Base, rest: str) -> Base:
    path, mark, query = rest.partition("?")
    path = path.replace("\\", "/")
    if not path:
        return Base(base.scheme, base.host, base.path, _quoted(mark + query) if mark else base.query)
    if not path.startswith("/"):
        path = base.path[: base.path.rfind("/") + 1] + path
    return Base(base.scheme, base.host, _path(path), _quoted(mark + query))


def _absolute(scheme: str, rest: str) -> Base | None:
    before, mark, query = rest.partition("?")
    authority, slash, path = before.replace("\\", "/").partition("/")
    host = _host(scheme, authority)
    return None if host is None else Base(scheme, host, _path(slash + path), _quoted(mark + query))


def _path(path: str) -> str:
    path = _quoted(path or "/").translate(_PATH)
    if "/." not in path and "%2" not in path:
        return path
    parts = path.split("/")[1:]
    kept: list[str] = []
    for number, part in enumerate(parts):
        dots, last = part.lower().replace("%2e", "."), number == len(parts) - 1
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(part)
            continue
        if last:
            kept.append("")
    return "/" + "/".join(kept)


def _quoted(text: str) -> str:
    return quote(text, _SAFE, errors="replace") if _UNSAFE.search(text) else text


@functools.lru_cache(4096)
def _host(scheme: str, authority: str) -> str | None:
    """Return host and port in their usual spelling; None where they make no sense."""
    user, at, place = authority.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    if port and not (port.isascii() and port.isdigit() and int(port[:8]) < 65536 and len(port) <= 8):
        return None
    if not (_IPV6 if host.startswith("[") else _HOST).fullmatch(host):
        return None
    try:
        host = ascii_host(host)
    except ValueError:
        return None
    port = "" if port == _PORTS[scheme] else port and f":{int(port)}"
    return f"{_quoted(user)}{at}{host.lower()}{port}"
