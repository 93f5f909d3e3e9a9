"""img2dataset as the engine, behind a gateway on this machine that adds what it lacks.

img2dataset reads bodies of any size, connects to any address, ignores robots.txt, has no limits per host, gives most causes only
as a message, and may hang at its end. So it gets URLs of a small server on the loopback, which fetches through our client and
records the cause of each failure. It runs in a separate process, which is killed when it makes no progress and started once more
for what is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import ThreadedResolver, web

from curate.fetch import FetchRequest, FetchResult
from curate.fetch.client import Client
from curate.fetch.denylists import load_denylists
from curate.fetch.frontier import Frontier, Outcome
from curate.fetch.host_limits import HostLimits
from curate.fetch.policy import FetchPolicy

STARTING = 60.0
"""Seconds without a request after which img2dataset is killed, in addition to the longest time of a request."""

_POLL = 0.1
_ATTEMPTS = 2


def fetch_with_img2dataset(
    requests: Sequence[FetchRequest], policy: FetchPolicy, child: Sequence[str] = ("-m", "curate.fetch.img2dataset_child")
) -> Generator[FetchResult | None, None, None]:
    """Yield one result per request, in any order, and None in between; `child` are Python's arguments that start img2dataset."""
    left = dict(enumerate(requests))
    with _serving(requests, policy) as gateway:
        for _ in range(_ATTEMPTS):
            if left:
                for number, body in _downloaded(gateway, sorted(left), child):
                    if number is None:
                        yield None
                        continue
                    error = gateway.causes.get(number)
                    if body is not None or error is not None:
                        yield FetchResult(left.pop(number).row, None if body is not None else error, body)
        for number, one in left.items():
            yield FetchResult(one.row, gateway.causes.get(number, "engine_failed"), None)


class _Gateway:
    """Serves the image of request NUMBER at /TOKEN/NUMBER."""

    def __init__(self, requests: Sequence[FetchRequest], policy: FetchPolicy) -> None:
        self._requests, self._policy = requests, policy
        self._token = secrets.token_urlsafe()
        self.causes: dict[int, str] = {}
        self.answered = 0
        self.port = 0
        self.started = threading.Event()
        self.failure: BaseException | None = None

    def url(self, number: int) -> str:
        """Return the URL of an image at the gateway."""
        return f"http://127.0.0.1:{self.port}/{self._token}/{number}"

    def patience(self) -> float:
        """Return the seconds within which the next request must end."""
        return STARTING + self._policy.timeout * (self._policy.retries + 2)

    async def serve(self) -> None:
        """Serve until cancelled."""
        limits = HostLimits(self._policy)
        try:
            async with Client(self._policy, limits, load_denylists(self._policy), ThreadedResolver) as client:

                async def handle(request: web.Request) -> web.Response:
                    return await self._answer(request, client, limits)

                app = web.Application()
                app.router.add_get(f"/{self._token}/{{number:[0-9]+}}", handle)
                runner = web.AppRunner(app, access_log=None)
                await runner.setup()
                try:
                    site = web.TCPSite(runner, "127.0.0.1", 0)
                    await site.start()
                    self.port = runner.addresses[0][1]
                    self.started.set()
                    await asyncio.Event().wait()
                finally:
                    await runner.cleanup()
        finally:
            limits.close()

    async def _answer(self, request: web.Request, client: Client, limits: HostLimits) -> web.Response:
        number = int(request.match_info["number"])
        outcomes: list[Outcome] = []

        async def keep(outcome: Outcome) -> None:
            outcomes.append(outcome)

        await Frontier(limits, self._policy, client, keep).run([self._requests[number]])
        self.answered += 1
        [outcome] = outcomes
        if outcome.body is None:
            self.causes[number] = outcome.error or "engine_failed"
            return web.Response(status=502)
        return web.Response(body=outcome.body.take(), content_type="application/octet-stream")


@contextmanager
def _serving(requests: Sequence[FetchRequest], policy: FetchPolicy) -> Iterator[_Gateway]:
    """Run a gateway in a thread."""
    gateway, loop = _Gateway(requests, policy), asyncio.new_event_loop()
    task = loop.create_task(gateway.serve())
    thread = threading.Thread(target=_until_cancelled, args=(loop, task, gateway), name="gateway")
    thread.start()
    try:
        gateway.started.wait()
        if gateway.failure is not None:
            raise gateway.failure
        yield gateway
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _until_cancelled(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], gateway: _Gateway) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except BaseException as error:  # noqa: BLE001 - raised in the other thread
        gateway.failure = error
    finally:
        gateway.started.set()


def _downloaded(gateway: _Gateway, numbers: Sequence[int], child: Sequence[str]) -> Iterator[tuple[int | None, bytes | None]]:
    """Let img2dataset download some numbers; yield (number, bytes or None) for finished ones, (None, None) while waiting."""
    with TemporaryDirectory(prefix="curate-img2dataset-") as name:
        folder = Path(name) / "out"
        pq.write_table(pa.table({"url": list(map(gateway.url, numbers)), "number": numbers}), Path(name) / "urls.parquet")
        command = [sys.executable, *child, str(Path(name) / "urls.parquet"), str(folder)]
        environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "NO_PROXY": "*", "no_proxy": "*"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            seen: set[Path] = set()
            for _ in _moving(process, gateway):
                yield None, None
                yield from _finished(folder, seen)
            yield from _finished(folder, seen)
        finally:
            _end(process)


def _moving(process: subprocess.Popen[bytes], gateway: _Gateway) -> Iterator[None]:
    """Yield now and then while the process lives; return when it has ended or makes no progress."""
    answered, since = gateway.answered, time.monotonic()
    while process.poll() is None:
        if gateway.answered != answered:
            answered, since = gateway.answered, time.monotonic()
        if time.monotonic() - since > gateway.patience():
            return
        try:
            process.wait(_POLL)
        except subprocess.TimeoutExpired:
            yield


def _finished(folder: Path, seen: set[Path]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the contents of shards that img2dataset has finished since the last call, and delete their files."""
    for stats in sorted(set(folder.glob("*_stats.json")) - seen):
        try:
            json.loads(stats.read_bytes())
        except ValueError:  # still being written
            continue
        seen.add(stats)
        shard = stats.name.removesuffix("_stats.json")
        for row in pq.read_table(folder / f"{shard}.parquet", columns=["number", "key", "status"]).to_pylist():
            path = folder / shard / f"{row['key']}.jpg"  # the original bytes, whatever their format
            yield row["number"], path.read_bytes() if row["status"] == "success" and path.is_file() else None
        shutil.rmtree(folder / shard, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
