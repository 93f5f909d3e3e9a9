"""How many downloads the filters before `fetch` save, measured on the first records of an input without any request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc

from curate.core.contracts import CorpusCount, Runner, Shard
from curate.core.shards import Shards
from curate.core.timing import Activities
from curate.counts.merge import Engine, Scanned, merge
from curate.passes.evaluation import evaluating
from curate.passes.fetch import wanted
from curate.passes.judge import Judge
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.storage.backend import storage
from curate.storage.store import Store

SAMPLE = 250_000
"""Records that are tried."""


@dataclass(frozen=True)
class Savings:
    """Of the `records` that were tried, `needed` would be fetched; `exact` where these are all and every filter was tried.

    Otherwise more is saved: a count of the whole input is larger than one of its first records. Filters that a sample would
    let drop too much are `left_out`.
    """

    records: int
    needed: int
    exact: bool
    left_out: tuple[str, ...]

    def sentence(self) -> str:
        """Say it in one line.

        >>> Savings(1000, 400, True, ()).sentence()
        'downloads: 400 of 1,000 images are needed, 60.0% are saved'
        >>> Savings(1000, 400, False, ("common_ngrams",)).sentence()
        'downloads: of the first 1,000 images 400 are needed, at least 60.0% are saved (without common_ngrams)'
        """
        share = f"{1 - self.needed / max(1, self.records):.1%}"
        if self.exact:
            return f"downloads: {self.needed:,} of {self.records:,} images are needed, {share} are saved"
        without = f" (without {', '.join(self.left_out)})" if self.left_out else ""
        text = f"of the first {self.records:,} images {self.needed:,} are needed, at least {share} are saved"
        return f"downloads: {text}{without}"


def savings(plan: Plan, shards: Shards, runner: Runner) -> Savings:
    """Try the filters before `fetch` on the first records whose images are on the web. Raises ShardBreak, OSError."""
    with TemporaryDirectory(prefix="curate-plan-") as folder:
        store = Store(storage(folder))
        scan = Scan(store, plan.base_key, plan.header, plan.text, plan.counts)
        tried: list[Shard] = []
        rows = 0
        for shard in _first(shards):
            some = replace(shard, index=len(tried), limit=SAMPLE - rows)
            rows += scan(some).rows
            tried.append(some)
            if rows >= SAMPLE:
                break
        whole = rows < SAMPLE and len(tried) == int(np.count_nonzero(shards.on_the_web)) == len(shards)
        left_out = () if whole else _too_eager(plan)
        plan = plan.without(left_out)
        sample = Shards(tried)
        scanned = Scanned(sample.fingerprints, np.arange(len(tried)))
        lookups = merge(store, plan.counts, scanned, Engine(runner, 500_000_000)) if plan.counts else {}
        judge = Judge(store, plan, plan.base_key, "plan", lookups)
        return Savings(rows, sum(_needed(judge, shard) for shard in sample), whole, left_out)


def _first(shards: Shards) -> Iterator[Shard]:
    return shards.at(np.flatnonzero(shards.on_the_web))


def _too_eager(plan: Plan) -> tuple[str, ...]:
    """Return the filters that drop what is rare: nothing is frequent in a sample."""
    counts = {name: rule.provider() for name, rule in plan.recipe.filters.items()}
    return tuple(name for name, count in counts.items() if isinstance(count, CorpusCount) and count.drops_rare)


def _needed(judge: Judge, shard: Shard) -> int:
    """Return how many images of a shard would be requested; records without a URL have none."""
    with evaluating(judge, shard, Activities()) as evaluation:
        return sum(int(pc.sum(pc.is_valid(batch["url"])).as_py() or 0) for batch in wanted(evaluation))
