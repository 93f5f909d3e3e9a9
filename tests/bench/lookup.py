"""Look-ups in a vocabulary of 100 million n-grams, by one process on one core."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from curate.counts.lookup import Lookup
from curate.storage.backend import storage
from tests.bench.measure import Figure, at_least, median, rounded, scratch, seconds_of

KEYS = 100_000_000
QUERIES = 150_000  # n-grams of a batch of 8,192 texts
BATCHES = 20
FREE = 4_000_000_000
_PART = 10_000_000


def write_vocabulary(folder: Path, keys: int) -> Lookup:
    """Write sorted random keys and their counts, part by part: key n lies in the n-th of as many equal steps."""
    folder.mkdir(parents=True)
    rng, step = np.random.default_rng(3), (1 << 64) // keys
    with (folder / "keys.u64").open("wb") as names, (folder / "values.i64").open("wb") as values:
        for start in range(0, keys, _PART):
            numbers = np.arange(start, min(keys, start + _PART), dtype=np.uint64)
            (numbers * np.uint64(step) + rng.integers(0, step, len(numbers), np.uint64)).tofile(names)
            (numbers % np.uint64(1000) + np.uint64(2)).astype(np.int64).tofile(values)
    return Lookup(storage(folder.parent.parent), folder.name, 2, "")


def batches(folder: Path, keys: int) -> list[np.ndarray]:
    """Return queries as a batch of texts has them: by Zipf's law over the vocabulary, in no order, a tenth unknown."""
    stored = np.memmap(folder / "keys.u64", np.uint64, "r")
    rng, found = np.random.default_rng(4), []
    scatter = np.uint64(0x9E3779B97F4A7C15)  # a frequent n-gram's key lies anywhere
    for _ in range(BATCHES):
        ranks = np.exp(rng.random(QUERIES) * np.log(keys)).astype(np.uint64)  # Zipf with exponent 1
        queries = np.array(stored[(ranks * scatter) % np.uint64(keys)])
        unknown = rng.random(QUERIES) < 0.1
        queries[unknown] = rng.integers(0, 1 << 63, int(unknown.sum()), np.uint64)
        found.append(queries)
    return found


def run() -> list[Figure]:
    """Measure whole calls of Lookup.values; count raw queries, and the different ones among them."""
    with scratch() as folder:
        if shutil.disk_usage(folder).free < FREE:
            print("    (not enough free disk for a vocabulary of 100 million: a million keys instead)")
        keys = KEYS if shutil.disk_usage(folder).free >= FREE else 1_000_000
        lookup = write_vocabulary(folder / "counts" / "vocabulary", keys)
        queries = batches(folder / "counts" / "vocabulary", keys)
        assert (lookup.values(queries[0]) > 0).mean() > 0.85
        walls = [seconds_of(lambda part=part: lookup.values(part)) for part in queries]
        different = [len(np.unique(part)) for part in queries]
        spread = [np.random.default_rng(5 + n).permutation(np.unique(np.concatenate(queries)))[:QUERIES] for n in range(5)]
        once = [seconds_of(lambda part=part: lookup.values(part)) for part in spread]
    raw = QUERIES / median(walls)
    more = {"distinct_queries_per_second": round(median(different) / median(walls)), "keys": keys, "queries_a_batch": QUERIES,
            "distinct_of_a_batch": round(median(different)), "batch_seconds": rounded(walls)}  # fmt: skip
    without = {"queries_a_batch": len(spread[0]), "batch_seconds": rounded(once)}
    return [
        at_least("lookups_per_core", raw, "look-ups/s", 1_500_000, more),
        at_least("lookups_no_repeats", len(spread[0]) / median(once), "look-ups/s", 1_500_000, without),
    ]
