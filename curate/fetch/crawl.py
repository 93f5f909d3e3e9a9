"""Fetches many images in an event loop on a thread of its own; the caller takes the results from a generator.

Results that the caller has not taken yet are bounded. Every await has a deadline, so every image ends within its time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import ThreadedResolver

from curate.fetch import FetchRequest, FetchResult
from curate.fetch.client import Client, ResolverFactory
from curate.fetch.denylists import load_denylists
from curate.fetch.frontier import Frontier, Outcome
from curate.fetch.host_limits import HostLimits
from curate.fetch.policy import FetchPolicy

_UNTAKEN = 64  # results that wait for the caller
_RESOLVER_THREADS = 64
_BEAT = 1.0  # seconds after which None is yielded if there is no result
_OPEN_FILES = 1 << 16


def crawl(
    requests: Sequence[FetchRequest], policy: FetchPolicy, resolver: ResolverFactory = ThreadedResolver
) -> Generator[FetchResult | None, None, None]:
    """Yield one result per request, in any order, and None now and then while there is none. Close it to stop fetching."""
    results: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
    _raise_file_limit()
    loop = asyncio.new_event_loop()
    names = ThreadPoolExecutor(_RESOLVER_THREADS, "names")
    loop.set_default_executor(names)
    room = asyncio.Semaphore(_UNTAKEN)
    task = loop.create_task(_crawl(requests, policy, resolver, _Outlet(results, room)))
    thread = threading.Thread(target=_run, args=(loop, task, results), name="crawl")
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
            yield FetchResult(found.row, found.error, None if found.body is None else found.body.take())
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
        names.shutdown(wait=False, cancel_futures=True)


def _raise_file_limit() -> None:
    """Allow as many connections as the system permits: about half are idle, kept for the next URL of their host."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], results: queue.SimpleQueue[object]) -> None:
    """Run the event loop until the crawl ends; an error is raised in the thread that takes the results."""
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except BaseException as error:  # noqa: BLE001 - raised in the other thread
        results.put(error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)
    finally:
        results.put(None)


@dataclass(frozen=True)
class _Outlet:
    """The bounded queue of results."""

    results: queue.SimpleQueue[Outcome | BaseException | None]
    room: asyncio.Semaphore

    async def put(self, outcome: Outcome) -> None:
        await self.room.acquire()
        self.results.put(outcome)


async def _crawl(requests: Sequence[FetchRequest], policy: FetchPolicy, resolver: ResolverFactory, outlet: _Outlet) -> None:
    limits = HostLimits(policy)
    try:
        async with Client(policy, limits, load_denylists(policy), resolver) as client:
            await Frontier(limits, policy, client, outlet.put).run(requests)
    finally:
        limits.close()
