"""Estimates how many downloads the filters before `fetch` save, by running them on the first records of an input."""

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
"""Records in the sample."""


@dataclass(frozen=True)
class Savings:
    """Of the sample's `records`, `needed` would be fetched. `exact` if the sample is the whole input and all filters ran.

    Otherwise the real savings are larger, because corpus counts grow with the input. Filters that would drop too much of a
    sample are `left_out`.
    """

    records: int
    needed: int
    exact: bool
    left_out: tuple[str, ...]

    def sentence(self) -> str:
        """Return one line for a person.

        >>> Savings(1000, 400, True, ()).sentence()
        'downloads: 400 of 1,000 images would be fetched, 60.0% are saved'
        >>> Savings(1000, 400, False, ("common_ngrams",)).sentence()
        'downloads: 400 of the first 1,000 images would be fetched, at least 60.0% are saved (without common_ngrams)'
        """
        share = f"{1 - self.needed / max(1, self.records):.1%}"
        if self.exact:
            return f"downloads: {self.needed:,} of {self.records:,} images would be fetched, {share} are saved"
        without = f" (without {', '.join(self.left_out)})" if self.left_out else ""
        fetched = f"{self.needed:,} of the first {self.records:,} images would be fetched"
        return f"downloads: {fetched}, at least {share} are saved{without}"


def savings(plan: Plan, shards: Shards, runner: Runner) -> Savings:
    """Run the filters before `fetch` on the first records that hold URLs. Raises ShardBreak, OSError."""
    with TemporaryDirectory(prefix="curate-plan-") as folder:
        store = Store(storage(folder))
        scan = Scan(store, plan.base_key, plan.header, plan.text, plan.counts)
        sampled: list[Shard] = []
        rows = 0
        for shard in _first(shards):
            some = replace(shard, index=len(sampled), limit=SAMPLE - rows)
            rows += scan(some).rows
            sampled.append(some)
            if rows >= SAMPLE:
                break
        whole = rows < SAMPLE and len(sampled) == int(np.count_nonzero(shards.on_the_web)) == len(shards)
        left_out = () if whole else _unusable_on_a_sample(plan)
        plan = plan.without(left_out)
        sample = Shards(sampled)
        scanned = Scanned(sample.fingerprints, np.arange(len(sampled)))
        lookups = merge(store, plan.counts, scanned, Engine(runner, 500_000_000)) if plan.counts else {}
        judge = Judge(store, plan, plan.base_key, "plan", lookups)
        return Savings(rows, sum(_to_fetch(judge, shard) for shard in sample), whole, left_out)


def _first(shards: Shards) -> Iterator[Shard]:
    return shards.at(np.flatnonzero(shards.on_the_web))


def _unusable_on_a_sample(plan: Plan) -> tuple[str, ...]:
    """Return the filters that drop what is rare, since everything is rare in a sample."""
    counts = {name: rule.provider() for name, rule in plan.recipe.filters.items()}
    return tuple(name for name, count in counts.items() if isinstance(count, CorpusCount) and count.drops_rare)


def _to_fetch(judge: Judge, shard: Shard) -> int:
    """Return how many images of a shard would be fetched; records without a URL do not count."""
    with evaluating(judge, shard, Activities()) as evaluation:
        return sum(int(pc.sum(pc.is_valid(batch["url"])).as_py() or 0) for batch in wanted(evaluation))
