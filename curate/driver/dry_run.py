"""A dry run: the real tasks on the first records of one shard, in a temporary folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from curate.core.contracts import Report, Shard, shard_name
from curate.core.shards import Shards
from curate.counts.lookup import Lookup, load
from curate.driver.manifest import attrition as counted_of
from curate.driver.manifest import described
from curate.driver.progress import idle
from curate.passes.evaluation import WAIT
from curate.passes.fetch import Fetch
from curate.passes.judge import Judge
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.report.attrition import Attrition, attrition
from curate.report.rules import rule_of
from curate.storage.backend import Storage, storage
from curate.storage.json_files import write_json
from curate.storage.store import Store

_WARM = 64  # records of an unmeasured first round that loads and compiles the models
_Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DryRun:
    """The results on one shard: attrition, seconds and rows by activity, and estimates for the whole input."""

    records: int
    kept: int
    attrition: list[Attrition]
    seconds: dict[str, float]
    rows: dict[str, int]
    core_hours: Estimate
    kept_pairs: Estimate
    not_estimated: list[str]
    wall: float
    manifest: dict[str, Any]  # records, kept, attrition, problems, failed_shards, partial_shards: as of a run

    def work(self) -> dict[str, float]:
        """Return the seconds by activity, without waiting, which keeps no core busy."""
        return {name: seconds for name, seconds in self.seconds.items() if name != WAIT}

    def bottleneck(self) -> str:
        """Return the activity that takes the most time."""
        return max(self.work(), key=lambda name: self.seconds[name], default="nothing")

    def idle(self) -> float | None:
        """Return the share of the time of captioner and matcher that they spent waiting for images; None without them."""
        return idle(self.seconds)


def earlier_counts(out: Storage, manifest: dict[str, Any], plan: Plan) -> tuple[dict[str, Lookup], list[str]]:
    """Return an earlier run's merged counts, and the filters of `plan` that cannot use them. Raises OSError."""
    lookups: dict[str, Lookup] = {}
    unserved = []
    for step in plan.steps:
        count = next((count for count in plan.counts if count.fact in step.rule.reads()), None)
        if count is None:
            continue
        recorded = manifest["counts"].get(count.fact)
        lookup = load(out, recorded["folder"]) if recorded is not None and "folder" in recorded else None  # a merge has none
        if lookup is None or not step.rule.answerable(lookup.floor) or not count.portable:
            unserved.append(step.name)
        else:
            lookups[count.fact] = lookup
    return lookups, unserved


def dry_run(plan: Plan, shard: Shard, lookups: dict[str, Lookup], pairs: float) -> Iterator[Storage | DryRun]:
    """Yield the temporary output, which exists until the next step of this iterator, and then the results.

    `plan` has no corpus counts except those in `lookups`; `shard.limit` is the number of records to try.
    """
    with TemporaryDirectory(prefix="curate-dry-run-") as folder:
        out = Path(folder)
        _once(plan, dataclasses.replace(shard, limit=min(_WARM, shard.limit or _WARM)), lookups, out / "warm")
        started = time.perf_counter()
        reports = _once(plan, shard, lookups, out / "try")
        wall = time.perf_counter() - started
        table = attrition(storage(out / "try"), {step.name: rule_of(step.rule) for step in plan.steps})
        seconds: dict[str, float] = {}
        rows: dict[str, int] = {}
        for report in reports:
            for name, value in report.seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value
            rows.update({name: value for name, value in report.counts.items() if name in report.seconds})
        judged = reports[-1].counts
        records, kept = judged["records"], judged["kept"]
        counted = counted_of([step.name for step in plan.steps], judged)
        broken = [{"shard": shard_name(shard), "reason": reports[-1].error}] if reports[-1].error else []
        totals = {**counted, "files": {}, "failed_shards": [], "partial_shards": broken}
        write_json(out / "try" / "manifest.json", {**described(plan, Shards([shard]), lookups, plan.warnings()), **totals})
        yield storage(out / "try")
        yield DryRun(
            records=records, kept=kept, attrition=table, seconds=seconds, rows=rows,
            core_hours=_hours(reports, records, pairs), kept_pairs=_share(kept, records, pairs), not_estimated=[], wall=wall,
            manifest=totals,
        )  # fmt: skip


def _once(plan: Plan, shard: Shard, lookups: dict[str, Lookup], out: Path) -> list[Report]:
    store, base = Store(storage(out)), plan.base_key
    judge = Judge(store, plan, base, "dry-run", lookups, samples=24)
    scanned = Scan(store, base, plan.header, plan.text, ())(shard)
    fetched = [Fetch(judge, plan.recipe.policy)(shard)] if shard.on_the_web else []
    return [scanned, *fetched, judge(shard)]


def _share(kept: int, records: int, pairs: float) -> Estimate:
    """Return kept pairs at scale with Wilson's interval; treats the shard as a random sample, which is only roughly true.

    >>> _share(50, 100, 1000).low < 500 < _share(50, 100, 1000).high
    True
    """
    if not records:
        return Estimate(0.0, 0.0, pairs)
    share, square = kept / records, _Z * _Z / records
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / records + square / (4 * records)) / (1 + square)
    return Estimate(share * pairs, max(0.0, middle - half) * pairs, min(1.0, middle + half) * pairs)


def _hours(reports: list[Report], records: int, pairs: float) -> Estimate:
    """Return core-hours at scale; the interval is from the share of records that each expensive stage runs on."""
    total = sum(value for report in reports for name, value in report.seconds.items() if name not in (WAIT, "thumbnails"))
    if not records:
        return Estimate(0.0, 0.0, 0.0)
    variance = 0.0
    for report in reports:
        for name, value in report.seconds.items():
            used = report.counts.get(name, 0)
            if 0 < used < records and name != WAIT:
                each, share = value / used, used / records
                variance += each * each * share * (1 - share) / records
    each = total / records
    half = _Z * math.sqrt(variance) + 0.1 * each  # timings on shared machines vary by about 10%
    return Estimate(*(value * pairs / 3600 for value in (each, max(0.0, each - half), each + half)))


def as_json(found: DryRun, pairs: float) -> dict[str, Any]:
    """Return the results as JSON values."""
    return {
        "records": found.records,
        "kept": found.kept,
        "attrition": [{"filter": line.filter, "seen": line.seen, "dropped": line.dropped} for line in found.attrition],
        "stages": {
            name: {"seconds": round(value, 4), "records": found.rows.get(name) or found.records}
            for name, value in found.work().items()
        },
        "models_idle": found.idle(),
        "bottleneck": found.bottleneck(),
        "pairs": pairs,
        "core_hours": dataclasses.asdict(found.core_hours),
        "kept_pairs": dataclasses.asdict(found.kept_pairs),
        "not_estimated": found.not_estimated,
        "problems": found.manifest["problems"],
    }
