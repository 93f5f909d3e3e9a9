"""Fetches one image over HTTP, with checks against hostile sites and for those that opt out."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, NamedTuple, TypeAlias

import aiohttp
from aiohttp import CookieJar
from aiohttp.abc import AbstractResolver
from aiohttp.typedefs import LooseCookies
from multidict import CIMultiDictProxy
from yarl import URL

from curate.core.version import __version__
from curate.fetch.addresses import ForbiddenAddress, SocketFactory, networks_of
from curate.fetch.body import Body, receive
from curate.fetch.denylists import Denylists
from curate.fetch.errors import FetchError
from curate.fetch.host_limits import HostLimits
from curate.fetch.opt_outs import MAX_RULES, Rules, opted_out, parse_robots, parse_tdmrep, tdm_reserved
from curate.fetch.policy import FetchPolicy
from curate.fetch.urls import host_of, redirect_target
from curate.images.header import HEAD_BYTES, read_header

CONNECT_SECONDS = 10.0

_DELIVERED = (200, 203, 206, 300)  # with an image in the body, which browsers show
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRYABLE = (429, 500, 502, 503, 504)
_RULES_TIMEOUTS = 4  # time for loading all rules of a site, in timeouts of one request
_SITES = 10_000  # sites whose rules are cached
_SITE_SECONDS = 24 * 3600.0  # for which rules are cached


class Response(NamedTuple):
    """The response to one request; `as_it_came`: the body claims an encoding that it does not have, or that nobody knows."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Body
    cookies: LooseCookies
    as_it_came: bool = False


class Redirect(NamedTuple):
    """Where a site redirects to, and the cookies of the way there, which some sites want to see."""

    url: URL
    cookies: CookieJar | None


ResolverFactory: TypeAlias = Callable[[], AbstractResolver]
"""Creates a resolver of host names, in the event loop that uses it."""


class Client:
    """Fetches images, one per call. An async context manager, for one event loop."""

    def __init__(self, policy: FetchPolicy, limits: HostLimits, denylists: Denylists, resolver: ResolverFactory) -> None:
        self._policy, self._limits, self._denylists, self._resolver = policy, limits, denylists, resolver
        self._sites: dict[str, tuple[float, asyncio.Future[Rules]]] = {}

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=600, keepalive_timeout=1, resolver=self._resolver(),
                socket_factory=SocketFactory(networks_of(self._policy.networks)),
            ),
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False, raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, self._policy.timeout)),
            headers={
                "User-Agent": f"curate/{__version__} (+{self._policy.contact.strip()})",
                "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity",
            },
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def check(self, url: URL) -> str:
        """Return the host of a URL. Raises FetchError if the lists or the site's cached rules refuse it; sends nothing."""
        self._denylists.check(url)
        known = self._sites.get(str(url.origin()))
        if known is not None and known[1].done() and not known[1].exception():
            _obey(known[1].result(), url)
        return host_of(url)

    async def image(self, url: URL, cookies: CookieJar | None = None) -> Body | Redirect:
        """Return the bytes of an image, or where the site redirects to. Raises FetchError.

        Call `check` before, and hold a connection of the host's limits.
        """
        await self._check_rules(url)
        async with _TimeLimit(self._policy.timeout):
            response = await self._get(url, self._policy.max_bytes, cookies=cookies)
        if response.status in _REDIRECTS:
            if response.cookies:
                cookies = CookieJar(unsafe=True) if cookies is None else cookies  # unsafe: also of hosts without a name
                cookies.update_cookies(response.cookies, url)
            return Redirect(redirect_target(url, response.headers.get("Location")), cookies)
        self._check_response(response)
        _check_body(response)
        return response.body

    def _check_response(self, response: Response) -> None:
        """Raise FetchError unless the site delivers the image and permits its use."""
        if response.status in _RETRYABLE:
            wait = retry_after(response.headers.get("Retry-After"))
            raise FetchError(f"http_{response.status}", retryable=True, retry_after=wait)
        if response.status not in _DELIVERED:
            raise FetchError(f"http_{response.status}")
        if response.status == 206 and not is_whole(response.headers.get("Content-Range")):
            raise FetchError("truncated")
        if opted_out(response.headers.getall("X-Robots-Tag", ()), self._policy.opt_out):
            raise FetchError("noai")
        if self._policy.tdm and tdm_reserved(response.headers):
            raise FetchError("tdm_reserved")

    async def _get(self, url: URL, limit: int, *, cut: bool = False, cookies: CookieJar | None = None) -> Response:
        """Send one request, following no redirect; `cut` truncates a body at `limit` instead of failing. Raises FetchError."""
        try:
            headers = None if cookies is None else _cookie_header(cookies, url)
            async with self._session.get(url, allow_redirects=False, headers=headers) as response:
                if response.status not in _DELIVERED:
                    return Response(response.status, response.headers, Body(0), response.cookies)
                if (response.content_length or 0) > limit and not cut:
                    raise FetchError("too_large")
                body, as_it_came = Body(limit), False
                try:
                    as_it_came = await receive(response, body)
                except FetchError as error:
                    if not (cut and error.code == "too_large"):
                        raise
                return Response(response.status, response.headers, body, response.cookies, as_it_came)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _translated(error) from error

    # Rules of a site -------------------------------------------------------------------------------------------------

    async def _check_rules(self, url: URL) -> None:
        """Raise FetchError if the site's rules refuse a URL. Rules are loaded once a day."""
        if not (self._policy.robots or self._policy.tdm):
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
            self._limits.postpone(host_of(url), delay)

    async def _rules(self, site: URL) -> Rules:
        try:
            async with _TimeLimit(_RULES_TIMEOUTS * self._policy.timeout):
                robots = await self._rule_file(site / "robots.txt") if self._policy.robots else b""
                tdmrep = await self._rule_file(site / ".well-known" / "tdmrep.json") if self._policy.tdm else b""
                return Rules(parse_robots(robots), parse_tdmrep(tdmrep))
        except FetchError as error:
            return Rules(unavailable="robots" if error.code.startswith("http_") else error.code)

    async def _rule_file(self, url: URL) -> bytes:
        """Return a file with rules, empty if the site has none; tries twice. Raises FetchError if the site fails."""
        try:
            return await self._followed(url)
        except FetchError as error:
            if not error.retryable or error.code == "timeout":
                raise
        return await self._followed(url)

    async def _followed(self, url: URL) -> bytes:
        for _ in range(self._policy.max_redirects + 1):
            self._denylists.check(url)  # a blocked host gets no requests for rules either
            while wait := self._limits.pace(host_of(url)):
                await asyncio.sleep(wait)
            async with _TimeLimit(self._policy.timeout):
                response = await self._get(url, MAX_RULES, cut=True)
            if response.status in _REDIRECTS:
                url = redirect_target(url, response.headers.get("Location"))
            elif response.status == 429 or response.status >= 500:
                raise FetchError(f"http_{response.status}", retryable=True)
            else:
                return response.body.take() if response.status == 200 else b""
        return b""  # RFC 9309: after too many redirects a site counts as having no rules


def _obey(rules: Rules, url: URL) -> None:
    if (code := rules.refuses(str(url), url.raw_path_qs)) is not None:
        raise FetchError(code)


def _check_body(response: Response) -> None:
    try:
        check_image(response.body)
    except FetchError as error:
        if error.code in ("not_image", "empty") and response.status != 200:
            raise FetchError(f"http_{response.status}") from None
        if error.code == "not_image" and response.as_it_came:
            raise FetchError("bad_encoding") from None
        raise


def check_image(body: Body) -> None:
    """Raise FetchError unless a body begins like an image of a size that is allowed."""
    if not len(body):
        raise FetchError("empty")
    header = read_header(body.head(HEAD_BYTES))
    if header.reason == "not_an_image":
        raise FetchError("not_image")
    if header.reason == "too_many_pixels":
        raise FetchError("too_many_pixels")


def _cookie_header(cookies: CookieJar, url: URL) -> dict[str, str]:
    found = "; ".join(f"{one.key}={one.coded_value}" for one in cookies.filter_cookies(url).values())
    return {"Cookie": found} if found else {}


def is_whole(content_range: str | None) -> bool:
    """Return whether a Content-Range is that of the whole file; sites send one unasked.

    >>> is_whole("bytes 0-9/10"), is_whole("bytes 0-8/10"), is_whole(None)
    (True, False, True)
    """
    match = re.fullmatch(r"bytes\s+0-(\d{1,18})/(\d{1,18})", (content_range or "").strip())
    return content_range is None or (match is not None and int(match[1]) + 1 == int(match[2]))


def retry_after(text: str | None) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 if it is missing or invalid.

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


class _TimeLimit:
    """A time limit that raises FetchError."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise FetchError("timeout", retryable=True) from None


_LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Faults of this machine: no fault of the site."""


def _translated(error: Exception) -> Exception:
    """Return the FetchError for an error of aiohttp; a fault of this machine is returned as it is."""
    if isinstance(error, OSError) and getattr(error, "os_error", error).errno in _LOCAL_FAULTS:
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
            return FetchError("timeout", retryable=True)
        return FetchError("connect", retryable=True)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("bad_url")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionError):
        return FetchError("connect", retryable=True)
    return FetchError("bad_answer")
