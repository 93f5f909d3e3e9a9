"""The image pass beside a bare loop that reads the same tars, hashes sha256 and decodes at the scale that is hashed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from curate.core.contracts import Needs, Report
from curate.images.jpeg import grey_scale_decode
from curate.passes.judge import Judge
from curate.passes.sampler import per_shard
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.runners.local.runner import LocalRunner
from curate.sources.tar.members import members
from tests.bench.measure import (
    WORKERS,
    Figure,
    at_least,
    median,
    photos,
    plan_of,
    rounded,
    run_of,
    scratch,
    seconds_of,
    write_tar,
)

RECORDS = 5000
SHARDS = 20
REPEATS = 5

RECIPE = """
filters:
  min_side: {larger_than: 100}
  aspect_ratio: {below: 3.0}
  unreadable:
  eval_overlap: {method: hash, radius: 8}
"""


def write_records(folder: Path) -> tuple[list[Path], Path]:
    """Write RECORDS records, photos over and over, as tars; and 30 of the photos as an evaluation set."""
    images = photos()
    paths = []
    size = RECORDS // SHARDS
    for number in range(SHARDS):
        rows = range(number * size, (number + 1) * size)
        pairs = [(f"{row:06d}", images[row % len(images)], f"a photo of thing number {row}") for row in rows]
        paths.append(write_tar(folder / "tars" / f"{number:05d}.tar", pairs))
    chosen = [(f"{number:03d}", data, "") for number, data in enumerate(images[:30])]
    return paths, write_tar(folder / "eval.tar", chosen)


def bare(path: str) -> Report:
    """Read a tar from end to end, hash each image and decode it to grey; nothing is kept."""
    images = 0
    with open(path, "rb", buffering=1 << 20) as file:
        for member in members(file):
            data = file.read(member.size)
            if member.name.endswith(b".jpg"):
                hashlib.sha256(data).hexdigest()
                grey_scale_decode(data)
                images += 1
    return Report(0, images)


def run_bare(runner: LocalRunner, paths: list[Path]) -> None:
    """Run the bare loop over all tars."""
    answers = [answer.rows for answer in runner.map(bare, map(str, paths), Needs()) if isinstance(answer, Report)]
    assert sum(answers) == RECORDS


def run_pass(runner: LocalRunner, plan: Plan, paths: list[Path], out: Path, samples: int = 0) -> None:
    """Scan and judge all tars, as a run does, until the last decision is written; `samples` thumbnails a category and tar."""
    held = run_of(plan, paths, out, runner)
    base = plan.base_key
    with held.store.locked():
        (out / "marks" / "run").mkdir(parents=True)
        scan = Scan(held.store, base, plan.header, plan.text, plan.counts)
        assert sum(rows_of(answer) for answer in runner.map(scan, held.shards, Needs())) == RECORDS
        judge = Judge(held.store, plan, base, "run", {}, samples)
        assert sum(rows_of(answer) for answer in runner.map(judge, held.shards, Needs())) == RECORDS


def rows_of(answer: object) -> int:
    """Return the rows that a task reports. Raises AssertionError when its worker died."""
    assert isinstance(answer, Report), answer
    return answer.rows


def run() -> list[Figure]:
    """Measure both in turn, in the same processes; then each with the start of its processes and, as in a run, thumbnails."""
    with scratch() as folder:
        paths, evaluation = write_records(folder)
        plan = plan_of(RECIPE, folder, [f"eval_overlap.sets={evaluation}"])
        cold_bare, cold_pass, warm_bare, warm_pass = [], [], [], []

        def started(work: str, out: Path) -> None:
            with LocalRunner(WORKERS) as runner:
                run_bare(runner, paths) if work == "bare" else run_pass(runner, plan, paths, out, per_shard(SHARDS))

        with LocalRunner(WORKERS) as runner:
            run_bare(runner, paths)
            run_pass(runner, plan, paths, folder / "first")
            for repeat in range(REPEATS):
                warm_bare.append(seconds_of(lambda: run_bare(runner, paths)))
                out = folder / f"warm{repeat}"
                warm_pass.append(seconds_of(lambda out=out: run_pass(runner, plan, paths, out)))
        for repeat in range(REPEATS - 2):
            out = folder / f"cold{repeat}"
            cold_bare.append(seconds_of(lambda: started("bare", folder)))
            cold_pass.append(seconds_of(lambda out=out: started("pass", out)))
    more = {"warm_bare_seconds": rounded(warm_bare), "warm_pass_seconds": rounded(warm_pass),
            "cold_bare_seconds": rounded(cold_bare), "cold_pass_seconds": rounded(cold_pass),
            "images_per_second": round(RECORDS / median(warm_pass)), "bare_images_per_second": round(RECORDS / median(warm_bare)),
            "records": RECORDS, "workers": WORKERS}  # fmt: skip
    warm = median([bare / whole for bare, whole in zip(warm_bare, warm_pass, strict=True)])
    cold = median([bare / whole for bare, whole in zip(cold_bare, cold_pass, strict=True)])
    return [
        at_least("image_pass", warm, "of the bare loop", 0.7, more),
        at_least("image_pass_with_start_thumbnails", cold, "of the bare loop", 0.7),
    ]
