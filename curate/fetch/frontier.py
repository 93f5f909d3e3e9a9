"""Many images: a queue for each host, and the hosts in the order in which they may be asked again.

A loop in a thread of its own asks; who wants the images takes them as a generator. A slow host never holds up another, and
what nobody has taken yet is bounded. Every await has a deadline, so every image ends by its own time.
"""

from __future__ import annotations

import asyncio
import heapq
import queue
import resource
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import xxhash
from aiohttp import ThreadedResolver
from yarl import URL

from curate.fetch import Got, Wanted
from curate.fetch.body import Body
from curate.fetch.client import Client, Resolving
from curate.fetch.denylists import refused
from curate.fetch.errors import FetchError
from curate.fetch.host_limits import BUSY, LONGEST, Hosts, Slot
from curate.fetch.policy import FetchPolicy
from curate.fetch.urls import place
from curate.images.header import read_header

DOWN = 8
"""Requests in a row that a host may fail, or put off, before the rest of its urls are given up."""

_UNTAKEN = 64  # answers that wait for whoever wants them
_RESOLVERS = 64  # threads that look up names
_HEAD = 4096
_BEAT = 1.0  # seconds
_FILES = 1 << 16
_DEAD = ("tls", "dns")


class Answered(NamedTuple):
    """What came, as the loop has it."""

    row: int
    error: str | None
    body: Body | None


@dataclass
class _Ask:
    """An image that is asked for: where it is said to be now, how often that was asked, and how many redirects led there."""

    row: int
    url: URL
    tries: int = 0
    redirects: int = 0


def crawl(
    wanted: Sequence[Wanted], policy: FetchPolicy, resolving: Resolving = ThreadedResolver
) -> Generator[Got | None, None, None]:
    """Yield what comes of each wanted image, in any order, each once; None while nothing comes. Close it to end all."""
    results: queue.SimpleQueue[Answered | BaseException | None] = queue.SimpleQueue()
    _many_files()
    loop = asyncio.new_event_loop()
    names = ThreadPoolExecutor(_RESOLVERS, "names")
    loop.set_default_executor(names)
    room = asyncio.Semaphore(_UNTAKEN)
    task = loop.create_task(_crawl(wanted, policy, resolving, _Outlet(results, room)))
    thread = threading.Thread(target=_turn, args=(loop, task, results), name="crawl")
    thread.start()
    try:
        while True:
            try:
                found = results.get(timeout=_BEAT)
            except queue.Empty:
                yield None
                continue
            if found is None:
                break
            if isinstance(found, BaseException):
                raise found
            loop.call_soon_threadsafe(room.release)
            yield Got(found.row, found.error, None if found.body is None else found.body.take())
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
        names.shutdown(wait=False, cancel_futures=True)


def _many_files() -> None:
    """Let this process have as many connections as it may: half of them are idle, for the next url of their host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _turn(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], results: queue.SimpleQueue[object]) -> None:
    """Run the loop of a crawl to its end; what goes wrong is raised by who takes the answers."""
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except BaseException as error:  # noqa: BLE001 - it belongs to the other thread
        results.put(error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)
    finally:
        results.put(None)


@dataclass(frozen=True)
class _Outlet:
    """Where answers go, as there is room."""

    results: queue.SimpleQueue[Answered | BaseException | None]
    room: asyncio.Semaphore

    async def put(self, answered: Answered) -> None:
        await self.room.acquire()
        self.results.put(answered)


async def _crawl(wanted: Sequence[Wanted], policy: FetchPolicy, resolving: Resolving, outlet: _Outlet) -> None:
    hosts = Hosts(policy)
    try:
        async with Client(policy, hosts, refused(policy), resolving) as client:
            await Frontier(hosts, policy, Asker(client), outlet.put).run(wanted)
    finally:
        hosts.close()


@dataclass(frozen=True)
class Asker:
    """Asks for one image at a time."""

    client: Client

    def check(self, url: URL) -> str:
        """Return the host of a url; raise FetchError where nobody need be asked to know that it is not fetched."""
        return self.client.check(url)

    async def image(self, url: URL) -> Body | URL:
        """Return an image that is one, or where it is instead. Raises FetchError."""
        body = await self.client.ask(url)
        if isinstance(body, URL):
            return body
        if not len(body):
            raise FetchError("empty")
        found = read_header(body.head(_HEAD))
        if found.reason == "not_an_image":
            raise FetchError("not_image")
        if found.reason == "too_many_pixels":
            raise FetchError("too_many_pixels")
        return body


class Frontier:
    """Which image is asked for next."""

    def __init__(self, hosts: Hosts, policy: FetchPolicy, asker: Asker, answer: Callable[[Answered], Awaitable[None]]) -> None:
        self._hosts, self._manners, self._asker, self._answer = hosts, policy, asker, answer
        self._waiting: dict[str, deque[_Ask]] = {}
        self._ready: list[tuple[float, int, str]] = []  # time, order, host: one entry for each host that waits
        self._parked: set[str] = set()  # hosts that come back when one of our own connections ends
        self._asking: Counter[str] = Counter()  # connections of ours
        self._met: set[str] = set()  # hosts of which something is known; one that may be dead gets one connection
        self._silent: dict[str, int] = {}  # failures in a row
        self._order = count()
        self._changed = asyncio.Event()
        self._left = 0

    async def run(self, wanted: Sequence[Wanted]) -> None:
        """Ask for all of them."""
        await self._fill(wanted)
        room = asyncio.Semaphore(self._manners.connections)
        async with asyncio.TaskGroup() as group:
            while self._left:
                await room.acquire()
                picked = await self._pick()
                if picked is None:
                    room.release()
                    break
                asking = group.create_task(self._one(*picked))
                asking.add_done_callback(lambda _: room.release())

    async def _fill(self, wanted: Sequence[Wanted]) -> None:
        """Queue the urls by host, shuffled: neighbours in a table are often of one site."""
        for one in sorted(wanted, key=lambda one: xxhash.xxh3_64_intdigest(one.url.encode(errors="replace"))):
            try:
                url = place(one.url)
                host = self._asker.check(url)
            except FetchError as error:
                await self._answer(Answered(one.row, error.code, None))
                continue
            self._left += 1
            self._waiting.setdefault(host, deque()).append(_Ask(one.row, url))
        now = asyncio.get_running_loop().time()
        self._ready = [(now, next(self._order), host) for host in self._waiting]

    async def _pick(self) -> tuple[Slot, _Ask] | None:
        """Wait for a host that may be asked; None when there is nothing left."""
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
                    await self._refused(host)
                if host in self._waiting and (slot := self._try(host, loop.time())) is not None:
                    asked = self._waiting[host].popleft()
                    self._asking[host] += 1
                    self._queue(host, loop.time())
                    return slot, asked
            if self._left:
                with suppress(TimeoutError):
                    async with asyncio.timeout(until):
                        await self._changed.wait()
        return None

    async def _refused(self, host: str) -> None:
        """Answer for the next urls of a host for which nobody need be asked: its rules are known by now."""
        waiting, answers = self._waiting[host], []
        while waiting:
            try:
                self._asker.check(waiting[0].url)
                break
            except FetchError as error:
                answers.append(Answered(waiting.popleft().row, error.code, None))
        if not waiting:
            del self._waiting[host]
        self._left -= len(answers)
        for answered in answers:  # at last: others work on the queues meanwhile
            await self._answer(answered)

    def _try(self, host: str, now: float) -> Slot | None:
        """Return a connection to a host; else put it where it waits for one."""
        if self._asking[host] and host not in self._met:
            self._parked.add(host)
            return None
        found = self._hosts.acquire(host)
        if isinstance(found, Slot):
            return found
        if found == BUSY and self._asking[host]:
            self._parked.add(host)
        else:
            heapq.heappush(self._ready, (now + found, next(self._order), host))
        return None

    def _queue(self, host: str, when: float) -> None:
        """Let a host wait for its turn, if it has urls left; forget it if it has none."""
        if self._waiting[host]:
            heapq.heappush(self._ready, (when, next(self._order), host))
        else:
            del self._waiting[host]

    async def _one(self, slot: Slot, asked: _Ask) -> None:
        """Ask for one image; what is elsewhere, or may be otherwise later, is queued again."""
        found: Body | URL | None = None
        error = None
        try:
            found = await self._asker.image(asked.url)
        except FetchError as failed:
            error = failed
        finally:
            self._hosts.release(slot)
            self._asking[slot.host] -= 1
            if not self._asking[slot.host]:
                del self._asking[slot.host]
            self._met.add(slot.host)
            self._unpark(slot.host)
        given_up = self._heard(slot.host, error)
        if isinstance(found, URL):
            error = self._redirected(asked, found)
            done = error is not None
        else:
            done = error is None or bool(given_up) or not self._again(slot.host, asked, error)
        if done:
            body = found if isinstance(found, Body) else None
            given_up.insert(0, Answered(asked.row, None if error is None else error.code, body))
        self._left -= len(given_up)
        self._changed.set()
        for answered in given_up:
            await self._answer(answered)

    def _redirected(self, asked: _Ask, url: URL) -> FetchError | None:
        """Queue what is elsewhere at the host that has it, before the others there; return why it is not fetched, if so."""
        if asked.redirects == self._manners.max_redirects:
            return FetchError("too_many_redirects")
        try:
            host = self._asker.check(url)
        except FetchError as error:
            return error
        asked.url, asked.tries, asked.redirects = url, 0, asked.redirects + 1
        self._wait(host, asked, first=True)
        return None

    def _wait(self, host: str, asked: _Ask, *, first: bool = False) -> None:
        """Queue a url at its host."""
        waiting = self._waiting.get(host)
        if waiting is None:
            self._waiting[host] = deque([asked])
            self._queue(host, asyncio.get_running_loop().time())
        elif first:
            waiting.appendleft(asked)
        else:
            waiting.append(asked)

    def _unpark(self, host: str) -> None:
        if host in self._parked:
            self._parked.discard(host)
            heapq.heappush(self._ready, (asyncio.get_running_loop().time(), next(self._order), host))
        self._changed.set()

    def _again(self, host: str, asked: _Ask, error: FetchError) -> bool:
        """Queue a url again where that may help, and let its host rest first."""
        if error.wait:
            self._hosts.postpone(host, error.wait)
        if not error.passing or asked.tries >= self._manners.retries or error.wait > LONGEST:
            return False
        asked.tries += 1
        if not error.wait:
            self._hosts.postpone(host, min(self._manners.timeout, 0.5 * 2**asked.tries))
        self._wait(host, asked)
        return True

    def _heard(self, host: str, error: FetchError | None) -> list[Answered]:
        """Give a host up that does not answer, time after time, or that wants to be asked much later; return what is lost."""
        if error is None or not (error.passing or error.code in _DEAD):
            self._silent.pop(host, None)
            return []
        self._silent[host] = self._silent.get(host, 0) + 1
        if (self._silent[host] < DOWN and error.wait <= LONGEST) or host not in self._waiting:
            return []
        self._parked.discard(host)
        self._ready = [entry for entry in self._ready if entry[2] != host]
        heapq.heapify(self._ready)
        return [Answered(one.row, "host_down", None) for one in self._waiting.pop(host)]
