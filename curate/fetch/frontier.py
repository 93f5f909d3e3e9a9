"""The queues of a crawl: one per host, and the hosts ordered by the time from which each may be requested.

A slow host never delays another.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import xxhash
from aiohttp import CookieJar
from yarl import URL

from curate.fetch import FetchRequest
from curate.fetch.body import Body
from curate.fetch.client import Client, Redirect, check_image
from curate.fetch.errors import FetchError
from curate.fetch.host_limits import BUSY, LONGEST, HostLimits, Slot
from curate.fetch.policy import FetchPolicy
from curate.fetch.urls import inline, is_inline, parse_url

DOWN = 8
"""Failures of a host in a row after which the rest of its URLs is given up."""

_UNREACHABLE = ("tls", "dns")


class Outcome(NamedTuple):
    """The result of a request inside the event loop; the body may still be in a file."""

    row: int
    error: str | None
    body: Body | None


Emit: TypeAlias = Callable[[Outcome], Awaitable[None]]


@dataclass
class _Pending:
    """An image to fetch: its current URL, the retries at that URL, and the redirects followed so far."""

    row: int
    url: URL
    tries: int = 0
    redirects: int = 0
    cookies: CookieJar | None = None


class Frontier:
    """Decides which image is fetched next."""

    def __init__(self, limits: HostLimits, policy: FetchPolicy, client: Client, emit: Emit) -> None:
        self._limits, self._policy, self._client, self._emit = limits, policy, client, emit
        self._waiting: dict[str, deque[_Pending]] = {}  # by host
        self._ready: list[tuple[float, int, str]] = []  # heap of (time, order, host), one entry per host
        self._parked: set[str] = set()  # hosts that wait until one of our connections to them closes
        self._connections: Counter[str] = Counter()  # ours, by host
        self._seen: set[str] = set()  # hosts with a finished request; others may be dead and get one connection
        self._failures: dict[str, int] = {}  # in a row, by host
        self._order = count()
        self._changed = asyncio.Event()
        self._left = 0

    async def run(self, requests: Sequence[FetchRequest]) -> None:
        """Fetch all images; each request ends in one call of `emit`."""
        await self._enqueue_all(requests)
        room = asyncio.Semaphore(self._policy.connections)
        async with asyncio.TaskGroup() as group:
            while self._left:
                await room.acquire()
                picked = await self._pick()
                if picked is None:
                    room.release()
                    break
                task = group.create_task(self._fetch(*picked))
                task.add_done_callback(lambda _: room.release())

    async def _enqueue_all(self, requests: Sequence[FetchRequest]) -> None:
        """Queue the URLs by host, shuffled, since neighbours in a table are often of one site."""
        for one in sorted(requests, key=lambda one: xxhash.xxh3_64_intdigest(one.url.encode(errors="replace"))):
            try:
                if is_inline(one.url):
                    await self._emit(Outcome(one.row, None, self._inline(one.url)))
                    continue
                url = parse_url(one.url)
                host = self._client.check(url)
            except FetchError as error:
                await self._emit(Outcome(one.row, error.code, None))
                continue
            self._left += 1
            self._waiting.setdefault(host, deque()).append(_Pending(one.row, url))
        now = asyncio.get_running_loop().time()
        self._ready = [(now, next(self._order), host) for host in self._waiting]

    def _inline(self, url: str) -> Body:
        """Return the image that a data: URL holds. Raises FetchError."""
        body = Body(self._policy.max_bytes)
        body.add(inline(url))
        check_image(body)
        return body

    async def _pick(self) -> tuple[Slot, _Pending] | None:
        """Wait for a host that may be requested; None when nothing is left."""
        loop = asyncio.get_running_loop()
        while self._left:
            self._changed.clear()
            until = None
            while self._ready:
                when, _, host = self._ready[0]
                if when > loop.time():
                    until = when - loop.time()
                    break
                heapq.heappop(self._ready)
                if host in self._waiting:
                    await self._drop_refused(host)
                if host in self._waiting and (slot := self._connect(host, loop.time())) is not None:
                    pending = self._waiting[host].popleft()
                    self._connections[host] += 1
                    self._schedule(host, loop.time())
                    return slot, pending
            if self._left:
                with suppress(TimeoutError):
                    async with asyncio.timeout(until):
                        await self._changed.wait()
        return None

    async def _drop_refused(self, host: str) -> None:
        """End the next URLs of a host that its rules, known by now, refuse without a request."""
        waiting, outcomes = self._waiting[host], []
        while waiting:
            try:
                self._client.check(waiting[0].url)
                break
            except FetchError as error:
                outcomes.append(Outcome(waiting.popleft().row, error.code, None))
        if not waiting:
            del self._waiting[host]
        self._left -= len(outcomes)
        for outcome in outcomes:  # last, since other tasks change the queues during the await
            await self._emit(outcome)

    def _connect(self, host: str, now: float) -> Slot | None:
        """Return a connection to a host; if there is none, park the host or schedule its next attempt."""
        if self._connections[host] and host not in self._seen:
            self._parked.add(host)
            return None
        found = self._limits.acquire(host)
        if isinstance(found, Slot):
            return found
        if found == BUSY and self._connections[host]:
            self._parked.add(host)
        else:
            heapq.heappush(self._ready, (now + found, next(self._order), host))
        return None

    def _schedule(self, host: str, when: float) -> None:
        """Schedule the next request to a host if it has URLs left, else drop the host."""
        if self._waiting[host]:
            heapq.heappush(self._ready, (when, next(self._order), host))
        else:
            del self._waiting[host]

    async def _fetch(self, slot: Slot, pending: _Pending) -> None:
        """Fetch one image; after a redirect or a retryable error its URL is queued again."""
        found: Body | Redirect | None = None
        error = None
        try:
            found = await self._client.image(pending.url, pending.cookies)
        except FetchError as failed:
            error = failed
        finally:
            self._limits.release(slot)
            self._connections[slot.host] -= 1
            if not self._connections[slot.host]:
                del self._connections[slot.host]
            self._seen.add(slot.host)
            self._unpark(slot.host)
        ended = self._record(slot.host, error)
        if isinstance(found, Redirect):
            pending.cookies = found.cookies
            error = self._follow(pending, found.url)
            done = error is not None
        else:
            done = error is None or bool(ended) or not self._retry(slot.host, pending, error)
        if done:
            body = found if isinstance(found, Body) else None
            ended.insert(0, Outcome(pending.row, None if error is None else error.code, body))
        self._left -= len(ended)
        self._changed.set()
        for outcome in ended:
            await self._emit(outcome)

    def _follow(self, pending: _Pending, url: URL) -> FetchError | None:
        """Queue a redirect first at its host; return an error if it may not be followed."""
        if pending.redirects == self._policy.max_redirects:
            return FetchError("too_many_redirects")
        try:
            host = self._client.check(url)
        except FetchError as error:
            return error
        pending.url, pending.tries, pending.redirects = url, 0, pending.redirects + 1
        self._enqueue(host, pending, first=True)
        return None

    def _enqueue(self, host: str, pending: _Pending, *, first: bool = False) -> None:
        """Queue a URL at its host."""
        waiting = self._waiting.get(host)
        if waiting is None:
            self._waiting[host] = deque([pending])
            self._schedule(host, asyncio.get_running_loop().time())
        elif first:
            waiting.appendleft(pending)
        else:
            waiting.append(pending)

    def _unpark(self, host: str) -> None:
        if host in self._parked:
            self._parked.discard(host)
            heapq.heappush(self._ready, (asyncio.get_running_loop().time(), next(self._order), host))
        self._changed.set()

    def _retry(self, host: str, pending: _Pending, error: FetchError) -> bool:
        """Queue a URL again and pause its host; return False if a retry is useless or not allowed."""
        if error.retry_after:
            self._limits.postpone(host, error.retry_after)
        if not error.retryable or pending.tries >= self._policy.retries or error.retry_after > LONGEST:
            return False
        pending.tries += 1
        if not error.retry_after:
            self._limits.postpone(host, min(self._policy.timeout, 0.5 * 2**pending.tries))
        self._enqueue(host, pending)
        return True

    def _record(self, host: str, error: FetchError | None) -> list[Outcome]:
        """Count failures in a row; give up a host after too many, or after a long Retry-After, and return its remaining URLs."""
        if error is None or not (error.retryable or error.code in _UNREACHABLE):
            self._failures.pop(host, None)
            return []
        self._failures[host] = self._failures.get(host, 0) + 1
        if (self._failures[host] < DOWN and error.retry_after <= LONGEST) or host not in self._waiting:
            return []
        self._parked.discard(host)
        self._ready = [entry for entry in self._ready if entry[2] != host]
        heapq.heapify(self._ready)
        return [Outcome(one.row, "host_down", None) for one in self._waiting.pop(host)]
