"""img2dataset as the engine, behind a gateway on this machine that does what it does not do itself.

img2dataset reads bodies without a bound, connects to any address, knows neither robots.txt nor limits of hosts, tells most
causes apart by no more than a message, and may hang at its end. So it is given urls of a small server on the loopback, which
asks the web through our client and notes the cause of each failure; and it runs in a process of its own, which is ended when
nothing moves any more and started once again for what is missing.
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

from curate.fetch import Got, Wanted
from curate.fetch.client import Client
from curate.fetch.denylists import refused
from curate.fetch.frontier import Answered, Asker, Frontier
from curate.fetch.host_limits import Hosts
from curate.fetch.policy import FetchPolicy

STARTING = 60.0
"""Seconds that img2dataset may take to its first request, and between two, on top of what the longest request may take."""

_POLL = 0.1
_ATTEMPTS = 2


def through_img2dataset(
    wanted: Sequence[Wanted], policy: FetchPolicy, child: Sequence[str] = ("-m", "curate.fetch.img2dataset_child")
) -> Generator[Got | None, None, None]:
    """Yield what comes of each wanted image, in any order, each once, and None; `child` is how Python starts img2dataset."""
    left = dict(enumerate(wanted))
    with _serving(wanted, policy) as gateway:
        for _ in range(_ATTEMPTS):
            if left:
                for number, body in _downloaded(gateway, sorted(left), child):
                    if number is None:
                        yield None
                        continue
                    error = gateway.causes.get(number)
                    if body is not None or error is not None:
                        yield Got(left.pop(number).row, None if body is not None else error, body)
        for number, one in left.items():
            yield Got(one.row, gateway.causes.get(number, "engine_failed"), None)


class _Gateway:
    """Answers GET /TOKEN/NUMBER with the image of that number."""

    def __init__(self, wanted: Sequence[Wanted], policy: FetchPolicy) -> None:
        self._wanted, self._manners = wanted, policy
        self._token = secrets.token_urlsafe()
        self.causes: dict[int, str] = {}
        self.answered = 0
        self.port = 0
        self.started = threading.Event()
        self.failure: BaseException | None = None

    def url(self, number: int) -> str:
        """Return where the image of a number is."""
        return f"http://127.0.0.1:{self.port}/{self._token}/{number}"

    def patience(self) -> float:
        """Return the seconds in which something must happen."""
        return STARTING + self._manners.timeout * (self._manners.retries + 2)

    async def serve(self) -> None:
        """Serve until it is cancelled."""
        hosts = Hosts(self._manners)
        try:
            async with Client(self._manners, hosts, refused(self._manners), ThreadedResolver) as client:

                async def handle(request: web.Request) -> web.Response:
                    return await self._answer(request, client, hosts)

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
            hosts.close()

    async def _answer(self, request: web.Request, client: Client, hosts: Hosts) -> web.Response:
        number = int(request.match_info["number"])
        found: list[Answered] = []

        async def keep(answered: Answered) -> None:
            found.append(answered)

        await Frontier(hosts, self._manners, Asker(client), keep).run([self._wanted[number]])
        self.answered += 1
        [answered] = found
        if answered.body is None:
            self.causes[number] = answered.error or "engine_failed"
            return web.Response(status=502)
        return web.Response(body=answered.body.take(), content_type="application/octet-stream")


@contextmanager
def _serving(wanted: Sequence[Wanted], policy: FetchPolicy) -> Iterator[_Gateway]:
    """Give a gateway that serves in a thread of its own."""
    gateway, loop = _Gateway(wanted, policy), asyncio.new_event_loop()
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
    except BaseException as error:  # noqa: BLE001 - it belongs to the other thread
        gateway.failure = error
    finally:
        gateway.started.set()


def _downloaded(gateway: _Gateway, numbers: Sequence[int], child: Sequence[str]) -> Iterator[tuple[int | None, bytes | None]]:
    """Let img2dataset download some numbers; yield each that it is done with, and the bytes if it has them; or no number."""
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
    """Yield now and then while the process lives and the gateway is asked; end the process when nothing moves."""
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
    """Yield what shards hold that img2dataset has finished since; their files go."""
    for stats in sorted(set(folder.glob("*_stats.json")) - seen):
        try:
            json.loads(stats.read_bytes())
        except ValueError:  # it is being written
            continue
        seen.add(stats)
        shard = stats.name.removesuffix("_stats.json")
        for row in pq.read_table(folder / f"{shard}.parquet", columns=["number", "key", "status"]).to_pylist():
            path = folder / shard / f"{row['key']}.jpg"  # whatever it is: it keeps the bytes, and gives them this name
            yield row["number"], path.read_bytes() if row["status"] == "success" and path.is_file() else None
        shutil.rmtree(folder / shard, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
