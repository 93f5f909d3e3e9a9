"""Fetching: images a second of one core, politeness included, beside bare img2dataset, from the same server on this machine.

Every image stands under one of some hundred hosts (addresses of the loopback), as in a table that was shuffled.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from curate.fetch import FetchPolicy, FetchRequest, fetch
from tests.bench.measure import DEMO, SHARED, Figure, at_least, seconds_of
from tests.webserver import nginx

IMAGES = 4000
HOSTS = 1000

_BARE = """
import sys
from img2dataset import download
if __name__ == "__main__":
    more = dict(disable_all_reencoding=True, extract_exif=False, compute_hash=None) if len(sys.argv) > 3 else {}
    files = dict(url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", output_format="webdataset")
    download(processes_count=1, **files, **more)
"""


def run() -> list[Figure]:
    """Measure both, one after the other; each on core 0, the server on the others."""
    with TemporaryDirectory(prefix="curate-bench-") as name:
        folder = Path(name)
        size = _pictures(folder / "root")
        with nginx(folder / "root", folder / "work", log=False) as port:
            urls = [f"http://127.0.{1 + n % HOSTS // 250}.{1 + n % HOSTS % 250}:{port}/{n}.jpg" for n in range(IMAGES)]
            ours, core = _ours(urls)
            plain = _plain(urls)
            theirs, as_is = _bare(urls, folder, "resized"), _bare(urls, folder, "as-is")
    more = {"images/s": round(ours), "images/s of core time": round(core), "bytes an image": size}
    more |= {"bare img2dataset, images/s": round(theirs), "the same without resizing, hash, EXIF": round(as_is)}
    more |= {"bare aiohttp, 256 requests at once, nothing checked or kept": round(plain)}
    return [at_least("fetch against bare img2dataset", ours / theirs, "times", 1.0, more)]


def _pictures(root: Path) -> int:
    """Write the demo's or COCO's photos under many names; return their mean size."""
    root.mkdir()
    found = sorted((SHARED / "data" / "coco_mini_ccby").rglob("*.jpg")) or sorted(DEMO.rglob("*.jpg"))
    for n in range(IMAGES):
        os.link(_copied(found[n % len(found)], root), root / f"{n}.jpg")
    return sum((root / f"{n}.jpg").stat().st_size for n in range(IMAGES)) // IMAGES


def _copied(source: Path, root: Path) -> Path:
    target = root / f"source-{source.name}"
    if not target.exists():
        shutil.copyfile(source, target)
    return target


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before, default=core)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _ours(urls: list[str]) -> tuple[float, float]:
    """Return images a second of the clock and of core time, at the default policy."""
    policy = FetchPolicy(contact="https://example.org/bench", networks=("127.0.0.0/8",))
    with _on_core(0):
        began, used = time.perf_counter(), _cpu(resource.RUSAGE_SELF)
        came = sum(got.body is not None for got in fetch([FetchRequest(n, url) for n, url in enumerate(urls)], policy))
        seconds, core = time.perf_counter() - began, _cpu(resource.RUSAGE_SELF) - used
    assert came == len(urls), came
    return len(urls) / seconds, len(urls) / core


def _plain(urls: list[str]) -> float:
    """Return images a second of a loop that only reads: the most that the client and the server can do."""
    import aiohttp

    async def read() -> None:
        room = asyncio.Semaphore(256)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(url: str) -> None:
                async with room, session.get(url) as response:
                    await response.read()

            await asyncio.gather(*map(one, urls))

    with _on_core(0):
        return len(urls) / seconds_of(lambda: asyncio.run(read()))


def _bare(urls: list[str], folder: Path, kind: str) -> float:
    """Return images a second of img2dataset, at its defaults or with the bytes as they are, without its start."""
    pq.write_table(pa.table({"url": urls}), folder / "urls.parquet")
    pq.write_table(pa.table({"url": urls[:1]}), folder / "one.parquet")
    (folder / "bare.py").write_text(_BARE)
    with _on_core(0):
        start, whole = (_timed(folder, table, kind) for table in ("one", "urls"))
    return (len(urls) - 1) / (whole - start)


def _timed(folder: Path, table: str, kind: str) -> float:
    began = time.perf_counter()
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [sys.executable, str(folder / "bare.py"), str(folder / f"{table}.parquet"), str(folder / f"{kind}-{table}")]
    command += ["as-is"] if kind == "as-is" else []
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime
