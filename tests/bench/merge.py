"""The merge of the corpus counts of 10 million (text, image) rows: memory of the process that does it, and time."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.counts.images_per_text import ImagesPerText
from curate.counts.merge import Engine, Scanned, merge
from curate.counts.ngrams import RarestNgram
from curate.counts.partial import Partial, partial_name
from curate.counts.texts_per_image import TextsPerImage
from curate.runners.local.runner import LocalRunner
from curate.stages.text import Tokens
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.bench.measure import ROOT, Figure, at_most, scratch

ROWS = 10_000_000
SHARDS = 20
WORDS = 10
PAIRS = (
    TextsPerImage(record_from=1000),
    ImagesPerText(record_from=10),
)
GRAMS = RarestNgram(vocabulary=100_000_000)
ENGINE = Engine(LocalRunner(1), 1_000_000_000)  # what `curate run` gives the merge when nothing is said


def write_partials(out: Path) -> None:
    """Write the partial counts of ROWS rows: 40% of the images and 30% of the texts stand more than once."""
    store, rng = Store(storage(out)), np.random.default_rng(2)
    empty = Tokens(np.zeros(1, np.int64), np.empty(0, np.uint64))
    chances = np.cumsum(1 / (np.arange(500_000) + 2.7))
    words = rng.integers(0, 1 << 63, 500_000, np.uint64)
    for number in range(SHARDS):
        rows, fingerprint = ROWS // SHARDS, f"{number:016x}"
        image = rng.integers(0, ROWS, rows).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        text = (rng.random(rows) ** 2 * ROWS).astype(np.uint64) * np.uint64(0xC4CEB9FE1A85EC53)
        table = pa.table({"url_key": image, "content_key": image, "text_key": text, "row": np.arange(rows)}).combine_chunks()
        with store.writing_facts(partial_name(PAIRS[0]), fingerprint) as path:
            pairs = Partial(PAIRS[0], path)
            pairs.add(table.to_batches()[0], empty)
            pairs.close()
        with store.writing_facts(partial_name(GRAMS), fingerprint) as path:
            grams = Partial(GRAMS, path)
            for _ in range(10):
                found = words[np.searchsorted(chances, rng.random(rows // 10 * WORDS) * chances[-1])]
                starts = np.arange(0, len(found) + 1, WORDS)
                grams.add(table.to_batches()[0], Tokens(starts, found))
            grams.close()


def child(out: Path) -> None:
    """Merge, and print seconds and the peak of this process in bytes."""
    shards = Scanned(np.arange(SHARDS, dtype=np.uint64), np.arange(SHARDS))
    started = time.perf_counter()
    merge(Store(storage(out)), PAIRS, shards, ENGINE)
    pairs = time.perf_counter() - started
    merge(Store(storage(out)), [GRAMS], shards, ENGINE)
    grams = time.perf_counter() - started - pairs
    print(pairs, grams, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def run() -> list[Figure]:
    """Merge in a process of its own."""
    with scratch() as folder:
        write_partials(folder / "out")
        command = [sys.executable, "-m", "tests.bench.merge", str(folder / "out")]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    more = {"pairs_seconds": round(float(told[0]), 1), "ngrams_seconds": round(float(told[1]), 1), "rows": ROWS, "words": WORDS}
    return [at_most("merge_peak_memory", float(told[2]) / 1e6, "MB", 2000, more)]


if __name__ == "__main__":
    child(Path(sys.argv[1]))
