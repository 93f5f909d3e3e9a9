"""Adding a shard to a thousand, and taking 100 records out of a million: time and bytes written, against a full run."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.measure import ROOT, WORKERS, Figure, at_most, scratch

SHARDS, RECORDS = 1_000, int(os.environ.get("GROWING_RECORDS", "1000"))
MAX_IMAGES = os.environ.get("GROWING_MAX_IMAGES", "100000")  # 10: the new texts change the counts of most, and of every shard
MILLION, OF_A_SHARD, REMOVED = int(os.environ.get("GROWING_MILLION", "1000000")), 10_000, 100

ADDED = """
filters:
  caption_frequency: {max_images: MAX_IMAGES}
  caption_words: {min_words: 2}
  min_side: {larger_than: 20}
  unreadable:
output: {samples_per_shard: 1000, block_shards: 10}
"""
HEADERS = """
filters:
  caption_words: {min_words: 2}
  min_side: {larger_than: 20}
"""


def pictures(side: int) -> list[bytes]:
    """Return some JPEGs; a comment makes any number of different ones of them."""
    found = []
    for seed in range(20):
        file = io.BytesIO()
        coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(file, "JPEG", quality=80)
        found.append(file.getvalue())
    return found


def write_tar(path: Path, images: list[bytes], first: int, records: int) -> None:
    """Write a tar of records that are all different, with texts by Zipf's law."""
    rng = np.random.default_rng(first)
    ranks = np.exp(rng.random(records) * np.log(50_000)).astype(int)
    with tarfile.open(path, "w") as tar:
        for number, rank in enumerate(ranks.tolist(), start=first):
            body = images[number % len(images)]
            comment = f"{number:012d}".encode()
            image = body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]
            for name, data in ((f"{number:09d}.jpg", image), (f"{number:09d}.txt", f"a picture of thing {rank}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def curate(*arguments: object) -> float:
    """Run the command; return its seconds of the clock."""
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "curate", *map(str, arguments)], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def files(out: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, time and size of every file."""
    stats = ((path, path.stat()) for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats}


def written(before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> dict[str, int]:
    """Return the sizes of the files that are new."""
    return {name: stat[2] for name, stat in after.items() if before.get(name) != stat}


def added(folder: Path) -> Iterator[Figure]:
    """Add one shard to a thousand."""
    (folder / "in").mkdir()
    images = pictures(192)
    for number in range(SHARDS + 1):
        write_tar(folder / "in" / f"{number:05d}.tar", images, number * RECORDS, RECORDS)
    new = folder / "new.tar"
    (folder / "in" / f"{SHARDS:05d}.tar").rename(new)
    (folder / "r.yaml").write_text(ADDED.replace("MAX_IMAGES", MAX_IMAGES))
    arguments = ("--out", folder / "out", "--workers", WORKERS)
    full = curate("run", folder / "r.yaml", folder / "in", *arguments)
    before = files(folder / "out")
    more = curate("run", folder / "r.yaml", new, *arguments, "--add")
    changed = written(before, files(folder / "out"))
    total = sum(stat[2] for stat in before.values())
    found = {"full_seconds": round(full, 1), "add_seconds": round(more, 1), "records": SHARDS * RECORDS, "full_bytes": total}
    found |= {"tars": sorted(name for name in changed if name.endswith(".tar"))}
    yield at_most("add_one_of_1000_seconds", more / full, "of a full run", 0.02, found)
    yield at_most("add_one_of_1000_bytes", sum(changed.values()) / total, "of the output", 0.02, {"bytes": sum(changed.values())})


def taken_out(folder: Path) -> Iterator[Figure]:
    """Take records out, in four of a hundred shards."""
    (folder / "in").mkdir()
    images = pictures(48)
    for number in range(MILLION // OF_A_SHARD):
        write_tar(folder / "in" / f"{number:05d}.tar", images, number * OF_A_SHARD, OF_A_SHARD)
    (folder / "r.yaml").write_text(HEADERS)
    full = curate("run", folder / "r.yaml", folder / "in", "--out", folder / "out", "--workers", WORKERS)
    shutil.rmtree(folder / "in")
    step = MILLION // 4
    keys = [f"key {start + 7 * number:09d}" for start in range(0, MILLION, step) for number in range(REMOVED // 4)]
    (folder / "list.txt").write_text("\n".join(keys))
    before = files(folder / "out")
    seconds = curate("remove", folder / "out", "--list", folder / "list.txt", "--workers", WORKERS)
    changed = written(before, files(folder / "out"))
    tars = sorted(name for name in changed if name.endswith(".tar"))
    total = sum(name.endswith(".tar") for name in before)
    touched = 4 * -(-10 * OF_A_SHARD // 10_000)  # blocks of ten shards, tars of 10,000
    more = {"seconds": round(seconds, 1), "full_seconds": round(full, 1), "of_tars": total, "bytes": sum(changed.values())}
    yield at_most("remove_100_of_a_million_tars", len(tars), "tars written", touched, more)


def run() -> list[Figure]:
    """Measure both."""
    found: list[Figure] = []
    for part in (added, taken_out):
        with scratch() as folder:
            found += part(folder)
    return found
