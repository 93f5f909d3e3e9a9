"""One image over HTTP, with every check that a hostile or a reluctant site calls for."""

from __future__ import annotations

import asyncio
import errno
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from tempfile import TemporaryFile
from time import time
from typing import IO, Any, NamedTuple, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDictProxy
from yarl import URL

from curate import __version__
from curate.fetch.addresses import ForbiddenAddress, networks_of, opener
from curate.fetch.errors import FetchError
from curate.fetch.hosts import Hosts
from curate.fetch.lists import Refused
from curate.fetch.manners import Manners
from curate.fetch.rights import MAX_RULES, Rules, opted_out, reserved, robots, tdm_reserved

CONNECT_SECONDS = 10.0
IN_MEMORY = 1 << 20
"""Bytes of a body that are held in memory; a larger one goes to a temporary file."""

_REDIRECTS = (301, 302, 303, 307, 308)
_ASK_AGAIN = (429, 500, 502, 503, 504)
_CHUNK = 64 << 10
_FILES = 4  # times the limit of a request in which a site must tell its rules
_SITES = 10_000  # whose rules are remembered
_SITE_SECONDS = 24 * 3600.0


class Body:
    """Bytes as they come: at most `limit` of them. Raises FetchError above that."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        """Take the next bytes, of what is too much the beginning."""
        if too_large := self._size + len(data) > self._limit:
            data = data[: self._limit - self._size]
        self._size += len(data)
        if self._file is None and self._size > IN_MEMORY:
            self._file = TemporaryFile(prefix="curate-")  # noqa: SIM115 - it lives as long as the body
            self._file.write(b"".join(self._parts))
            self._parts.clear()
        if self._file is None:
            self._parts.append(data)
        else:
            self._file.write(data)
        if too_large:
            raise FetchError("too_large")

    def take(self) -> bytes:
        """Return all of it, once."""
        found = self.peek()
        if self._file is not None:
            self._file.close()
        return found

    def peek(self) -> bytes:
        """Return all of it."""
        if self._file is None:
            return b"".join(self._parts)
        self._file.seek(0)
        return self._file.read()

    def head(self, size: int) -> bytes:
        """Return the first bytes."""
        if self._file is None:
            return b"".join(self._parts)[:size] if self._size <= size else _first(self._parts, size)
        self._file.seek(0)
        found = self._file.read(size)
        self._file.seek(0, 2)
        return found

    def __len__(self) -> int:
        return self._size


def _first(parts: list[bytes], size: int) -> bytes:
    found = bytearray()
    for part in parts:
        found += part[: size - len(found)]
        if len(found) == size:
            break
    return bytes(found)


class Answer(NamedTuple):
    """What a host said to one request."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Body


Resolving: TypeAlias = Callable[[], AbstractResolver]
"""Makes what looks up names, in the loop that will use it."""


class Client:
    """Asks for images. Used as an async context; not for several loops."""

    def __init__(self, manners: Manners, hosts: Hosts, refused: Refused, resolving: Resolving) -> None:
        self._manners, self._hosts, self._refused, self._resolving = manners, hosts, refused, resolving
        self._sites: dict[str, tuple[float, asyncio.Future[Rules]]] = {}

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=600, keepalive_timeout=1, resolver=self._resolving(),
                socket_factory=opener(networks_of(self._manners.networks)),
            ),
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False, raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, self._manners.timeout)),
            headers={
                "User-Agent": f"curate/{__version__} (+{self._manners.contact.strip()})",
                "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity",
            },
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def check(self, url: URL) -> str:
        """Return the host of a url; raise FetchError where what is known already refuses it."""
        self._refused.check(url)
        known = self._sites.get(str(url.origin()))
        if known is not None and known[1].done() and not known[1].exception():
            _obey(known[1].result(), url)
        return host_of(url)

    async def ask(self, url: URL) -> Body | URL:
        """Return an image's bytes, or where they are instead. Raises FetchError.

        The caller has asked `check`, and has a connection to the host.
        """
        await self._permitted(url)
        async with _limited(self._manners.timeout):
            answer = await self._get(url, self._manners.max_bytes)
        return _joined(url, answer.headers.get("Location")) if answer.status in _REDIRECTS else self._judged(answer)

    def _judged(self, answer: Answer) -> Body:
        """Return the body of an answer that may be used."""
        if answer.status in _ASK_AGAIN:
            raise FetchError(f"http_{answer.status}", passing=True, wait=retry_after(answer.headers.get("Retry-After")))
        if answer.status != 200:
            raise FetchError(f"http_{answer.status}")
        if opted_out(answer.headers.getall("X-Robots-Tag", ()), self._manners.opt_out):
            raise FetchError("noai")
        if self._manners.tdm and tdm_reserved(answer.headers):
            raise FetchError("tdm_reserved")
        return answer.body

    async def _get(self, url: URL, limit: int, *, cut: bool = False) -> Answer:
        """Make one request and follow nothing; of a body that is too long take the beginning if `cut`. Raises FetchError."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return Answer(response.status, response.headers, Body(0))
                if (response.content_length or 0) > limit and not cut:
                    raise FetchError("too_large")
                body = Body(limit)
                try:
                    await _receive(response, body)
                except FetchError as error:
                    if not (cut and error.code == "too_large"):
                        raise
                return Answer(response.status, response.headers, body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _told(error) from error

    # What a site reserves --------------------------------------------------------------------------------------------

    async def _permitted(self, url: URL) -> None:
        """Raise FetchError where the site's rules refuse a url; they are asked for once a day."""
        if not (self._manners.robots or self._manners.tdm):
            return
        site = str(url.origin())
        known = self._sites.get(site)
        if known is None or known[0] < time() - _SITE_SECONDS:
            if len(self._sites) >= _SITES:
                self._sites.pop(next(iter(self._sites)))
            known = self._sites[site] = time(), asyncio.ensure_future(self._rules(url.origin()))
        rules = await asyncio.shield(known[1])
        _obey(rules, url)
        if delay := rules.delay():
            self._hosts.postpone(host_of(url), delay)

    async def _rules(self, site: URL) -> Rules:
        try:
            async with _limited(_FILES * self._manners.timeout):
                return await self._asked(site)
        except FetchError as error:
            return Rules(unheard="robots" if error.code.startswith("http_") else error.code)

    async def _asked(self, site: URL) -> Rules:
        text = await self._small(site / "robots.txt") if self._manners.robots else b""
        rights = await self._small(site / ".well-known" / "tdmrep.json") if self._manners.tdm else b""
        return Rules(robots(text), reserved(rights))

    async def _small(self, url: URL) -> bytes:
        """Return a small file of a site, nothing where there is none. Raises FetchError where the site is at fault."""
        for again in (True, False):
            try:
                return await self._followed(url)
            except FetchError as error:
                if not (again and error.passing) or error.code == "timeout":
                    raise
        raise AssertionError

    async def _followed(self, url: URL) -> bytes:
        for _ in range(self._manners.max_redirects + 1):
            self._refused.check(url)  # a host that is never asked is not asked for rules either
            while wait := self._hosts.pace(host_of(url)):
                await asyncio.sleep(wait)
            async with _limited(self._manners.timeout):
                answer = await self._get(url, MAX_RULES, cut=True)
            if answer.status in _REDIRECTS:
                url = _joined(url, answer.headers.get("Location"))
            elif answer.status == 429 or answer.status >= 500:
                raise FetchError(f"http_{answer.status}", passing=True)
            else:
                return answer.body.take() if answer.status == 200 else b""
        return b""  # RFC 9309: more redirects than that count as no rules


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


def _obey(rules: Rules, url: URL) -> None:
    if (code := rules.refuses(str(url), url.raw_path_qs)) is not None:
        raise FetchError(code)


def host_of(url: URL) -> str:
    """Return what limits hold for: host and port."""
    return f"{(url.host or '').lower()}:{url.port}"


def retry_after(text: str | None) -> float:
    """Return the seconds that a Retry-After asks for, as a number or a date; 0 without one.

    >>> retry_after("30"), retry_after(None), retry_after("soon"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
    (30.0, 0.0, 0.0, 0.0)
    """
    if text is None:
        return 0.0
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _joined(url: URL, location: str | None) -> URL:
    if location is None:
        raise FetchError("bad_url")
    try:
        return place(str(url.join(URL(location))))
    except (ValueError, TypeError) as error:
        raise FetchError("bad_url") from error


async def _receive(response: aiohttp.ClientResponse, body: Body) -> None:
    """Read a body within its limit, undoing an encoding that was not asked for."""
    inflate = _inflater(response.headers.get("Content-Encoding", "").strip().lower())
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            if inflate is None:
                body.add(chunk)
            else:
                _inflated(inflate, chunk, body)
    except aiohttp.ClientError as error:
        raise FetchError("truncated", passing=True) from error
    except zlib.error as error:
        raise FetchError("bad_encoding") from error
    if inflate is not None and not inflate.eof:
        raise FetchError("truncated")


def _inflater(encoding: str) -> Any:
    """Return what undoes a Content-Encoding, None for none. Raises FetchError for one that is not known."""
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise FetchError("bad_encoding")


def _inflated(inflate: Any, chunk: bytes, body: Body) -> None:
    """Add what a chunk inflates to, in bounded pieces: a bomb is stopped by the body's limit."""
    while chunk:
        body.add(inflate.decompress(chunk, _CHUNK))
        chunk = inflate.unconsumed_tail
        if inflate.eof:
            return


class _limited:
    """A time limit whose end is a FetchError."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise FetchError("timeout", passing=True) from None


_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What no site is to blame for."""


def _told(error: Exception) -> Exception:
    """Return what an error of the client means; a fault of this machine as it is."""
    if isinstance(error, OSError) and getattr(error, "os_error", error).errno in _OURS:
        return error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError("dns")
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
        return FetchError("tls")
    if isinstance(error, aiohttp.ClientOSError | OSError):
        cause = getattr(error, "os_error", error)
        if isinstance(cause, ForbiddenAddress) or "not a public address" in str(cause):
            return FetchError("private_address")
        if isinstance(error, TimeoutError):
            return FetchError("timeout", passing=True)
        return FetchError("connect", passing=True)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("bad_url")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionError):
        return FetchError("connect", passing=True)
    return FetchError("bad_answer")
