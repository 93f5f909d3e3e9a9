"""What a billion and ten billion pairs take, on paper, from costs measured here: core-hours, GPU-hours, requests, bytes.

Every record is one of the photos of the pool (70 kB) and lives until it is decoded, hashed, embedded, packed and captioned: the
worst case. Shards hold 10,000 records. Requests are the difference of two runs: what a run asks for once is left out. The input
is read from a store that counts: whole by the scan, and by ranges of images in the passes after it. GPU-hours are BLIP-large's
operations at half of an A100's bfloat16 rate: not measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.driver.run import Run
from curate.sources.listing import list_shards
from curate.storage.backend import Disk, Found
from curate.storage.store import Store
from tests.bench.idle import SECONDS
from tests.bench.measure import Figure, photos, plan_of, scratch, write_tar
from tests.remote_files import Asked, Asking, asking
from tests.running import InProcess

FEW, MANY = 1, 3  # shards of the two runs
RECORDS = 600  # of each: too large for one request
SHARD_RECORDS = 10_000
CORES, GPUS, GBITS = 1024, 64, 400  # a cluster: 16 nodes of 64 cores, 4 GPUs and 25 Gbit/s
SHUFFLED = 16  # bytes of a row of partial counts on its way: two 64-bit numbers
WORDS = 12  # of a text
RECIPE = """
filters:
  image_reuse:
  caption_frequency:
  common_ngrams: {min_count: 1}
  caption_words:
  min_side: {larger_than: 100}
  aspect_ratio:
  unreadable:
  eval_overlap: {similarity: 1.0}
output: {samples_per_shard: 10000, block_shards: 2}
"""


@dataclass(frozen=True)
class Watched(Disk):
    """A folder that counts what would be requests to an object store."""

    asked: Counter[str] = field(default_factory=Counter, compare=False)

    def read(self, name: str) -> bytes | None:
        self.asked["GET"] += 1
        return super().read(name)

    def size(self, name: str) -> int | None:
        self.asked["HEAD"] += 1
        return super().size(name)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        self.asked["PUT"] += 1
        with super().writing(name) as path:
            yield path

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        self.asked["GET"] += 1
        with super().reading(name) as path:
            yield path

    def listing(self, folder: str) -> Iterator[Found]:
        self.asked["LIST"] += 1
        return super().listing(folder)

    def remove(self, names: Iterable[str]) -> None:
        listed = list(names)
        self.asked["DELETE"] += len(listed)
        super().remove(listed)


@dataclass(frozen=True)
class Costs:
    """Of one record: core-seconds by activity, its bytes, bytes read and range requests by pass, bytes kept in OUT, and shuffled.

    Of one shard: requests by kind, but for those for ranges.
    """

    seconds: dict[str, float]
    size: float
    read: dict[str, float]
    ranges: dict[str, float]
    stored: dict[str, float]
    shuffled: float
    requests: dict[str, float]


def measured(folder: Path) -> Costs:
    """Run two jobs in this process and take the costs of the larger, and its requests beyond those of the smaller."""
    few, _, _, _ = _run(folder / "few", FEW)
    asked, seconds, out, passes = _run(folder / "many", MANY)
    records = MANY * RECORDS
    stored = {name: _size(out / name) / records for name in ("facts", "decisions", "shards")}
    rows = sum(pq.read_metadata(path).num_rows for path in out.glob("facts/partial_*/*.parquet"))
    requests = {kind: (asked[kind] - few[kind]) / (MANY - FEW) for kind in asked}
    each = {name: value / records for name, value in seconds.items()}
    read = {name: sum(one.size for one in several) / records for name, several in passes.items()}
    ranges = {name: sum(one.start is not None for one in several) / records for name, several in passes.items()}
    return Costs(each, _size(folder / "many" / "in") / records, read, ranges, stored, SHUFFLED * rows / records, requests)


@dataclass
class Passes:
    """Progress that sorts the requests for the input by the pass that made them."""

    store: Asking
    found: dict[str, list[Asked]] = field(default_factory=dict)
    name: str = ""

    def start(self, name: str, total: int) -> None:
        """Begin a pass."""
        self.found.setdefault(self.name, []).extend(one for one in self.store.asked if one.kind == "GET")
        self.store.asked.clear()
        self.name = name

    def advance(self, records: int) -> None:
        """Count nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


def _run(folder: Path, shards: int) -> tuple[Counter[str], dict[str, float], Path, dict[str, list[Asked]]]:
    """Return the requests to OUT, the core-seconds by activity, the output of a job, and its requests for the input by pass."""
    given, rng = photos(), np.random.default_rng(5)
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "0.jpg").write_bytes(given[0])
    for shard in range(shards):
        texts = [" ".join(f"w{word}" for word in rng.zipf(1.3, WORDS) % 50_000) for _ in range(RECORDS)]
        rows = [(f"{n:06d}", given[(shard * RECORDS + n) % len(given)], text) for n, text in enumerate(texts)]
        write_tar(folder / "in" / f"{shard}.tar", rows)
    plan = plan_of(RECIPE, folder, [f"eval_overlap.sets={folder / 'eval'}"])
    place = Watched(str(folder / "out"))
    with asking() as store:
        for path in (folder / "in").iterdir():
            store.pipe_file(f"/in/{path.name}", path.read_bytes())
        progress = Passes(store)
        outcome = Run(plan, list_shards(["asking://in/*.tar"], {}), Store(place), InProcess(), progress=progress).run()
    progress.start("", 0)
    assert (outcome.records, outcome.failed) == (shards * RECORDS, [])
    return place.asked, outcome.seconds, folder / "out", progress.found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(costs: Costs, pairs: float) -> dict[str, Any]:
    """Return what so many pairs take, and the hours that each part of the cluster needs for it."""
    shards = pairs / SHARD_RECORDS
    core_hours = sum(costs.seconds.values()) * pairs / 3600
    gpu_hours = SECONDS * pairs / 3600
    # where models have GPUs, cores decode first in a pass that reads the images which the judge reads again
    moved = (sum(costs.read.values()) + costs.read["judge"] + costs.stored["shards"]) * pairs
    ranges = sum(costs.ranges.values()) + costs.ranges["judge"]
    requests = {kind: count * shards for kind, count in sorted(costs.requests.items())}
    requests["GET"] += ranges * pairs + shards  # and one for the whole tar, which the scan makes
    hours = {
        "cores": core_hours / CORES,
        "GPUs": gpu_hours / GPUS,
        "network": moved * 8 / (GBITS * 1e9) / 3600,
        "shuffle": 2 * costs.shuffled * pairs * 8 / (GBITS * 1e9) / 3600,
    }
    return {
        "pairs": pairs,
        "core_hours": round(core_hours),
        "gpu_hours": round(gpu_hours),
        "input_TB": round(costs.size * pairs / 1e12, 1),
        "moved_TB": round(moved / 1e12, 1),
        "facts_TB": round(costs.stored["facts"] * pairs / 1e12, 2),
        "decisions_TB": round(costs.stored["decisions"] * pairs / 1e12, 2),
        "shuffle_TB": round(costs.shuffled * pairs / 1e12, 2),
        "requests": {kind: f"{count:.3g}" for kind, count in requests.items()},
        "hours_on_the_cluster": {name: round(value, 1) for name, value in hours.items()},
        "first_bottleneck": max(hours, key=lambda name: hours[name]),
    }


def run() -> list[Figure]:
    """Measure, and print both tables."""
    with scratch() as folder:
        costs = measured(folder)
    each = {name: round(value * 1e3, 3) for name, value in sorted(costs.seconds.items(), key=lambda item: -item[1])}
    print("    core-milliseconds a record:", each)
    print("    bytes of input read for a record, by pass:", {name: round(value) for name, value in costs.read.items() if value})
    figures = []
    for pairs in (1e9, 1e10):
        found = table(costs, pairs)
        figures.append(Figure(f"estimate_{pairs:.0e}", found["core_hours"], "core-hours", "(on paper)", True, found))
    return figures
