"""The comparison of two outputs: time and memory of the process that does it, over synthetic decisions."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from curate.core.contracts import Shard
from curate.core.shards import Shards
from curate.driver.identity import Identity, record
from curate.report.diff import diff
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.bench.measure import ROOT, Figure, at_most, scratch

ROWS = int(os.environ.get("DIFF_ROWS", "10000000"))
ROWS_A_SHARD = 100_000
CORES = 2
PICTURED = 24
FILTERS = ["image_reuse", "caption_frequency", "common_ngrams", "caption_words", "min_side", "aspect_ratio", "unreadable", "nsfw",
           "eval_overlap", "clip_similarity"]  # fmt: skip

_EVIDENCE = """
    (h >> 1) % 40 AS image_reuse, (h >> 2) % 90 AS caption_frequency, (h >> 3) % 900 AS common_ngrams,
    ((h >> 4) % 30)::INTEGER AS caption_words, ((h >> 5) % 1200)::INTEGER AS min_side,
    ((h >> 6) % 1000 / 300.0)::DOUBLE AS aspect_ratio, NULL::VARCHAR AS unreadable, ((h >> 7) % 1000 / 1000.0)::DOUBLE AS nsfw,
    ((h >> 8) % 1000 / 1000.0)::DOUBLE AS eval_overlap, ((h >> 9) % 1000 / 1000.0 + {shift})::DOUBLE AS clip_similarity
"""
_DECISIONS = """
    WITH facts AS (SELECT {shard} * 1000000 + row AS number, row, hash(number) AS h FROM range({rows}) t(row)),
    evidence AS (SELECT number, row, h, {evidence} FROM facts),
    judged AS (SELECT *, CASE WHEN min_side < {side} THEN 'min_side' WHEN caption_words < 5 THEN 'caption_words'
        WHEN clip_similarity < 0.2 THEN 'clip_similarity' END AS dropped_by FROM evidence)
    SELECT '{shard}.tar' AS shard, {shard}::INTEGER AS shard_index, row,
        CASE WHEN dropped_by IS NULL THEN 'k' || number END AS sample_key, 'key' || row AS key,
        'https://example.org/images/' || h || '.jpg' AS url, 0::SMALLINT AS text_no, 'web' AS source,
        'a picture of thing number ' || h || ' in front of a house' AS text, dropped_by,
        CASE WHEN dropped_by IS NULL THEN []::VARCHAR[] ELSE [dropped_by] END AS failed, []::VARCHAR[] AS not_evaluated,
        sha256(h::VARCHAR) AS sha256, * EXCLUDE (number, row, h, dropped_by) FROM judged
"""


def write_lists(out: Path, first: int = 0) -> None:
    """Write a manifest and the list of shards; those with other numbers have other fingerprints."""
    (out / "manifest.json").write_text(json.dumps({"filters": FILTERS, "recipe": {"name": "bench"}}))
    shards = Shards(Shard(n, f"{first + n}.tar", "tar", 1, f"{first + n:016x}") for n in range(ROWS // ROWS_A_SHARD))
    record(Store(storage(out)), Identity("run", "", {}, {}, "0", shards.digest, 0, finished=True), shards)


def write_output(out: Path, side: int, shift: float) -> None:
    """Write what a comparison reads: `side` is a threshold, `shift` moves one filter's evidence."""
    (out / "decisions").mkdir(parents=True)
    write_lists(out)
    for shard in range(ROWS // ROWS_A_SHARD):
        found = _DECISIONS.format(shard=shard, rows=ROWS_A_SHARD, side=side, evidence=_EVIDENCE.format(shift=shift))
        duckdb.sql(f"COPY ({found}) TO '{out}/decisions/{shard:06d}.parquet' (COMPRESSION zstd)")
    write_thumbs(out)


def write_thumbs(out: Path) -> None:
    """Write pictures of PICTURED records of each shard."""
    (out / "thumbs").mkdir(parents=True)
    picture = "'\\xFF\\xD8\\xFF'::BLOB || repeat('x', 3000)::BLOB"
    for shard in range(ROWS // ROWS_A_SHARD):
        found = f"SELECT {shard}::INTEGER AS shard_index, 7 * row AS row, {picture} AS thumb FROM range({PICTURED}) t(row)"
        duckdb.sql(f"COPY ({found}) TO '{out}/thumbs/{shard:06d}.parquet'")


def child(a: Path, b: Path) -> None:
    """Compare, and print seconds, the peak of this process in bytes, its CPU seconds, and what was found."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    started = time.perf_counter()
    found = diff(storage(a), storage(b), pictures=True)
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(seconds, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime, found.both, found.by_content)


def run() -> list[Figure]:
    """Compare outputs of the same input, and of the same records in shards of which the other knows nothing."""
    figures = []
    with scratch() as folder:
        write_output(folder / "a", 200, 0.0)
        write_output(folder / "b", 256, 0.01)
        shutil.copytree(folder / "b" / "decisions", folder / "other" / "decisions", copy_function=os.link)
        shutil.copytree(folder / "b" / "thumbs", folder / "other" / "thumbs", copy_function=os.link)
        write_lists(folder / "other", first=1_000_000)
        for name, other in (("diff", "b"), ("diff_by_content", "other")):
            command = [sys.executable, "-m", "tests.bench.diff", str(folder / "a"), str(folder / other)]
            told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
            assert told[3:] == [str(ROWS), str(ROWS if other == "other" else 0)]
            more = {"rows_of_each": ROWS, "cores": CORES, "cpu_seconds": round(float(told[2]), 1)}
            figures.append(at_most(f"{name}_seconds", float(told[0]), "s", 60, more))
            figures.append(at_most(f"{name}_peak_memory", float(told[1]) / 1e6, "MB", 2000, more))
    return figures


if __name__ == "__main__":
    child(Path(sys.argv[1]), Path(sys.argv[2]))
