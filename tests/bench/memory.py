"""Peak memory of a worker without models: one shard, and the same records in a thousand."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.runners.local.runner import LocalRunner
from tests.bench.measure import WORKERS, Figure, at_most, photos, plan_of, run_of, scratch, write_tar

LARGE = 4000  # records of one large shard of photos
SMALL = 40  # records of each of the small shards, of pictures of a few kB
RECIPE = """
filters:
  image_reuse:
  caption_frequency:
  common_ngrams: {min_count: 1}
  min_side: {larger_than: 100}
  unreadable:
  eval_overlap: {method: hash, radius: 0}
output: {samples_per_shard: 1000, block_shards: 50}
"""
_EVERY = 0.05  # seconds between looks


@contextmanager
def peaks() -> Iterator[dict[int, float]]:
    """Collect the largest resident size so far (VmHWM, MB) of each Python child of this process, until the block ends."""
    found: dict[int, float] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY):
            for child in children():
                found[child] = max(found.get(child, 0.0), high_water(child))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def children() -> list[int]:
    """Return the process ids of this process's workers (the resource tracker is none)."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            continue
    return [pid for pid in found if "spawn_main" in command_of(pid)]


def command_of(pid: int) -> str:
    """Return the command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def high_water(pid: int) -> float:
    """Return VmHWM in MB; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def peak_with(shards: int, images: list[bytes], per_shard: int, folder: Path) -> float:
    """Return the peak of the hungriest worker over a whole run, in MB."""
    inputs = folder / f"input{shards}-{per_shard}"
    for number in range(shards):
        rows = range(number * per_shard, (number + 1) * per_shard)
        pairs = [(f"{row:06d}", images[row % len(images)], f"a photo of thing number {row}") for row in rows]
        write_tar(inputs / f"{number:05d}.tar", pairs)
    evaluation = write_tar(folder / "eval.tar", [("one", images[0], "")])
    plan = plan_of(RECIPE, folder, [f"eval_overlap.sets={evaluation}"])
    with peaks() as found, LocalRunner(WORKERS) as runner:
        outcome = run_of(plan, [inputs], folder / f"out{shards}-{per_shard}", runner).run()
    assert outcome.records == per_shard * shards and not outcome.failed, outcome
    return max(found.values())


def small_jpegs() -> list[bytes]:
    """Return pictures of a few kB, so that a thousand shards take seconds."""
    from PIL import Image

    found = []
    for data in photos()[:SMALL]:
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").resize((128, 128)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def run() -> list[Figure]:
    """Compare one shard with a thousand like it; and look at one shard with photos of usual size."""
    if not sys.platform.startswith("linux"):
        return []
    with scratch() as folder:
        small = small_jpegs()
        one, thousand = peak_with(1, small, SMALL, folder), peak_with(1000, small, SMALL, folder)
        large = peak_with(1, photos(), LARGE, folder)
    found = {"one_small_shard_mb": one, "thousand_small_shards_mb": thousand, "one_shard_of_4000_photos_mb": large}
    more = {name: round(value) for name, value in found.items()}
    return [
        at_most("worker_peak_memory", max(one, thousand, large), "MB", 1000, more),
        at_most("thousand_shards_over_one", thousand / one, "times the memory", 1.1),
    ]
