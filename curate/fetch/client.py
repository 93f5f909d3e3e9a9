"""One image over HTTP, with every check that a hostile or a reluctant site calls for."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, NamedTuple, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDictProxy
from yarl import URL

from curate.core.version import __version__
from curate.fetch.addresses import ForbiddenAddress, networks_of, opener
from curate.fetch.body import Body, _receive
from curate.fetch.denylists import Refused
from curate.fetch.errors import FetchError
from curate.fetch.host_limits import Hosts
from curate.fetch.opt_outs import MAX_RULES, Rules, opted_out, reserved, robots, tdm_reserved
from curate.fetch.policy import FetchPolicy
from curate.fetch.urls import _joined, host_of

CONNECT_SECONDS = 10.0

_REDIRECTS = (301, 302, 303, 307, 308)
_ASK_AGAIN = (429, 500, 502, 503, 504)
_FILES = 4  # times the limit of a request in which a site must tell its rules
_SITES = 10_000  # whose rules are remembered
_SITE_SECONDS = 24 * 3600.0


class Answer(NamedTuple):
    """What a host said to one request."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Body


Resolving: TypeAlias = Callable[[], AbstractResolver]
"""Makes what looks up names, in the loop that will use it."""


class Client:
    """Asks for images. Used as an async context; not for several loops."""

    def __init__(self, policy: FetchPolicy, hosts: Hosts, refused: Refused, resolving: Resolving) -> None:
        self._manners, self._hosts, self._refused, self._resolving = policy, hosts, refused, resolving
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


def _obey(rules: Rules, url: URL) -> None:
    if (code := rules.refuses(str(url), url.raw_path_qs)) is not None:
        raise FetchError(code)


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
