"""The driver with a million shards: listed, planned, resumed with every mark present, and the manifest written.

Stand-ins answer for the input's bucket and for OUT; what the driver itself writes goes into a folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from curate.core.contracts import TaskDied
from curate.counts.merge import Engine, Scanned, merge
from curate.driver.run import Run
from curate.passes.pack import Pack
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.sources.listing import list_shards
from curate.storage.backend import Found, Storage
from curate.storage.marks import File, Mark
from curate.storage.store import Store
from tests.bench.measure import ROOT, Figure, at_most
from tests.bench.memory import high_water

SHARDS = 1_000_000
TARS = 4  # of a block


class Crawl(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A bucket that lists a million tars and holds none."""

    protocol = "crawl"

    def isdir(self, path: str) -> bool:
        return True

    def find(self, path: str, **_: Any) -> dict[str, dict[str, Any]]:
        names = (f"bucket/some/crawl/part-{number:08d}.tar" for number in range(SHARDS))
        return {name: {"name": name, "size": 10**9, "type": "file", "ETag": f'"{hash(name):032x}"'} for name in names}


@dataclass(frozen=True)
class Finished(Storage):
    """An output in which every shard is scanned, counted, judged and packed: listings and marks are made up as they are read."""

    fingerprints: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    block_shards: int = 10
    folder: Path = Path()  # of the files that the driver writes
    written: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes | None:
        if name.startswith("counts/"):
            return json.dumps({"fact": "", "floor": 2}).encode()
        if "/pack/" in name:
            return self._block(int(name.rpartition("/")[2].removesuffix(".json")))
        return self.written.get(name)

    def _block(self, block: int) -> bytes:
        """Return the mark of a block: the same text with other numbers, for what a stand-in costs is not the driver's."""
        first, tar = block * self.block_shards, block * TARS
        numbers = {f"shard{at}": first + at for at in range(self.block_shards)} | {f"tar{at}": tar + at for at in range(TARS)}
        return (self._any_block % {**numbers, "made_with": self.written["made_with"].decode()}).encode()

    @cached_property
    def _any_block(self) -> str:
        tally = {"records": 10_000, "texts": 10_000, "kept": 4000, "kept_texts": 4000}
        shards = [f"%(shard{at})06d" for at in range(self.block_shards)]
        verdicts = {shard: Mark({f"decisions/{shard}.parquet": File(10**6, "0" * 64, 4000)}, tally) for shard in shards}
        tars = [f"%(tar{at})05d" for at in range(TARS)]
        files = {f"shards/{tar}.tar": File(10**9, "0" * 64, 10_000) for tar in tars}
        files |= {f"index/{tar}.parquet": File(10**6, "0" * 64, 10_000) for tar in tars}
        return json.dumps(Mark(files, made_with="%(made_with)s", parts=verdicts).to_json())

    def listing(self, folder: str) -> Iterator[Found]:
        kind = folder.partition("/")[0]
        if kind == "facts":
            for fingerprint in map("{:016x}".format, self.fingerprints):
                yield Found(f"{fingerprint}.json", 100)
                yield Found(f"{fingerprint}.0123abcd.parquet", 1_000_000)
        elif kind in ("decisions", "thumbs", "marks"):
            ending = ".json" if kind == "marks" else ".parquet"
            yield from (Found(f"{number:06d}{ending}", 1_000_000) for number in range(len(self.fingerprints)))
        elif kind in ("index", "shards"):
            ending = "parquet" if kind == "index" else "tar"
            yield from (
                Found(f"{number:05d}.{ending}", 10**9) for number in range(len(self.fingerprints) // self.block_shards * TARS)
            )

    def folders(self, folder: str) -> list[str]:
        return []

    def size(self, name: str) -> int | None:
        return None

    def write(self, name: str, data: bytes) -> None:
        self.written[name] = data

    def create(self, name: str, data: bytes) -> bool:
        raise NotImplementedError(name)

    def move(self, old: str, new: str) -> None:
        raise NotImplementedError(old)

    def remove(self, names: Iterable[str]) -> None:
        assert not list(names)

    def remove_folder(self, folder: str) -> None:
        assert folder == "staged", folder  # where nothing waits

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        yield path

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        yield self.folder / name


@dataclass(frozen=True)
class NothingToDo:
    """A runner to which nothing may be given."""

    def map(self, task: Any, items: Iterable[Any], needs: Any) -> Iterator[TaskDied]:
        assert next(iter(items), None) is None, f"{type(task).__name__} was not done"
        return iter(())

    def counting(self, scratch: str, memory: int) -> Any:
        raise AssertionError("the counts were not merged")


def child(folder: Path) -> None:
    """List, plan, resume and conclude a run; print the seconds of each, the peak in MB, the processor seconds."""
    fsspec.register_implementation("crawl", Crawl, clobber=True)
    started = time.perf_counter()
    shards = list_shards(["crawl://bucket/some/crawl"], {})
    plan = planning.plan(recipes.load("align"))
    assert len(shards) == SHARDS
    planned = time.perf_counter() - started
    storage = Finished("crawl://bucket/out", shards.fingerprints, folder=folder)
    held = Run(plan, shards, Store(storage), NothingToDo())
    storage.written["made_with"] = made_with(held).encode()
    started = time.perf_counter()
    attempts = held.attempts()
    packed = held.steps(attempts)
    resumed = time.perf_counter() - started
    outcome = held.conclude(packed, attempts)
    assert outcome.records == SHARDS * 10_000
    concluded = time.perf_counter() - started - resumed
    # not ru_maxrss: Linux keeps it over exec, so that it is at least what the parent took when it started this process
    print(planned, resumed, concluded, high_water(os.getpid()) * 2**20 / 1e6, time.process_time())


def made_with(held: Run) -> str:
    """Return what the marks of the blocks must contain for the run to accept them."""
    scanned = Scanned(held.shards.fingerprints, np.arange(len(held.shards)))
    judge = held.judge(merge(held.store, held.plan.counts, scanned, Engine(held.runner, held.options.memory)))
    return Pack(held.store, held.plan, judge.base, judge.run, judge.marks).made_with()


def run() -> list[Figure]:
    """Measure in a separate process."""
    with TemporaryDirectory(prefix="curate-bench-") as folder:
        command = [sys.executable, "-m", "tests.bench.driver", folder]
        found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    *seconds, peak, processor = map(float, found)
    names = ("plan_seconds", "resume_seconds", "conclude_seconds", "processor_seconds")
    more = {name: round(value, 1) for name, value in zip(names, (*seconds, processor), strict=True)}
    return [
        at_most("driver_million_shards", sum(seconds), "s", 120, {**more, "shards": SHARDS}),
        at_most("driver_million_shards_peak", peak, "MB", 1000),
    ]


if __name__ == "__main__":
    child(Path(sys.argv[1]))
