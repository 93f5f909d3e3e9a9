"""Where the time of `curate run align` without nsfw goes, in a pool of 6,000 pairs with planted defects."""

from __future__ import annotations

import time
from pathlib import Path

from curate.driver.resolve import resolve
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.runners.local.runner import LocalRunner
from tests.bench.measure import DEMO, SHARED, WORKERS, Figure, Phases, at_most, cpu_seconds, run_of, scratch, share
from tests.conftest import make_pool

EMBEDDING = {"embedding:efficientnet-lite0", "eval_similarity"}
WORK = {"decode", "header", "text", "language", "lookup", "count", "read", "write", "pack", *EMBEDDING}
"""Activities that are decoding, embedding, hashing (sha256 in header, texts' keys in text), counting, or copying."""


def pool_of(folder: Path) -> tuple[Path, Path]:
    """Return the folders of pairs and of evaluation images: a pool of 6,000, or the demo's where ../shared is absent."""
    if not SHARED.is_dir():
        return DEMO / "pairs", DEMO / "eval"
    make_pool(SHARED, folder / "made")
    return folder / "made" / "pool", folder / "made" / "eval"


def run() -> list[Figure]:
    """Run it once and name every second of its workers and of its driver."""
    with scratch() as folder:
        pairs, evaluation = pool_of(folder)
        text = (recipes.folder() / "align.yaml").read_text(encoding="utf-8").replace("  nsfw:\n", "")
        (folder / "align.yaml").write_text(text, encoding="utf-8")
        overrides = ["common_ngrams.min_count=1", f"eval_overlap.sets={evaluation}"]
        plan, _ = resolve(planning.plan(recipes.load(str(folder / "align.yaml"), overrides)), folder / "cache")
        phases = Phases()
        before, started = cpu_seconds(), time.perf_counter()
        with LocalRunner(WORKERS) as runner:
            outcome = run_of(plan, [pairs], folder / "out", runner, phases).run()
        wall = time.perf_counter() - started
        phases.start("end", 0)
        processor = cpu_seconds() - before
    by_activity = share(outcome)
    driver = {name: round(phases.seconds.get(name, 0.0), 3) for name in ("merge corpus counts", "report")}
    workers, report = sum(outcome.seconds.values()), driver["report"]
    total = workers + sum(driver.values())
    other = {name: value for name, value in by_activity.items() if name not in WORK} | {"report": report}
    more = {"core_seconds": by_activity, "driver_seconds": driver, "other": other, "records": outcome.records,
            "process_start_and_waiting": round(wall * WORKERS - total, 3), "wall_seconds": round(wall, 2),
            "processor_seconds": round(processor, 2), "workers": WORKERS, "pool": SHARED.is_dir()}  # fmt: skip
    return [at_most("breakdown_other", sum(other.values()) / total, "of core-seconds", 0.15, more)]
