"""A million short texts through normalising, words, both corpus counts, the n-gram vocabulary and the verdicts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.runners.local.runner import LocalRunner
from tests.bench.measure import WORKERS, Figure, Phases, at_least, cpu_seconds, median, plan_of, rounded, run_of, scratch, share

TEXTS = 1_000_000
FILES = 8
VOCABULARY = 200_000
REPEATS = 3

RECIPE = """
filters:
  image_reuse: {max_texts: 1000}
  caption_frequency: {max_images: 10}
  common_ngrams: {min_count: 2}
  caption_words: {min_words: 3, max_words: 20}
"""


def words_of(rng: np.random.Generator) -> pa.Array:
    """Return made-up words of 2 to 11 letters, the frequent ones short, as in English; some are capitalised."""
    lengths = np.minimum(2 + rng.poisson(np.log2(np.arange(VOCABULARY) + 2) / 3), 11)
    letters = rng.choice(np.frombuffer(b"etaoinshrdlcumwfgypbvk", np.uint8), int(lengths.sum()))
    ends = np.cumsum(lengths)
    text = letters.tobytes().decode()
    words = [text[end - size : end] for end, size in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return pa.array([word.capitalize() if number % 7 == 3 else word for number, word in enumerate(words)])


def write_texts(folder: Path, texts: int = TEXTS) -> list[Path]:
    """Write parquet files with columns url, text and an empty image: about 10 words a text by Zipf's law, 3% shared."""
    rng = np.random.default_rng(1)
    words, paths = words_of(rng), []
    chances = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))  # Zipf's law with Mandelbrot's shift
    shared = ["image", "click to enlarge", "photo of the day", "free shipping on all orders", "thumbnail image of the post"]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        rows = texts // FILES
        lengths = np.clip(rng.normal(10, 4, rows).round(), 1, 30).astype(np.int32)
        ranks = np.searchsorted(chances, rng.random(int(lengths.sum())) * chances[-1])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), words.take(pa.array(ranks)))
        common = pa.array(shared).take(pa.array(rng.integers(0, len(shared), rows)))
        text = pc.if_else(pa.array(rng.random(rows) < 0.03), common, pc.binary_join(lists, " "))
        pages = rng.integers(0, texts * 9 // 10, rows)  # about 40% of the images stand under more than one text
        url = pc.binary_join_element_wise("https://img.example/photos/", pa.array(pages).cast(pa.string()), ".jpg", "")
        table = pa.table({"url": url, "text": text, "image": pa.nulls(rows, pa.binary())})
        paths.append(folder / f"{number:03d}.parquet")
        pq.write_table(table, paths[-1])
    return paths


def run() -> list[Figure]:
    """Measure from the start of the workers to the last decision written; tars (none here) and report are told apart."""
    with scratch() as folder:
        inputs = write_texts(folder / "texts")
        plan = plan_of(RECIPE, folder)
        passes, wholes, steps, shares = [], [], {}, {}
        for repeat in range(REPEATS):
            phases = Phases()
            started, processor = time.perf_counter(), cpu_seconds()
            with LocalRunner(WORKERS) as runner:
                outcome = run_of(plan, inputs, folder / f"out{repeat}", runner, phases).run()
            wholes.append(time.perf_counter() - started)
            processor = cpu_seconds() - processor
            assert outcome.records == TEXTS and not outcome.failed
            steps, shares = phases.seconds, share(outcome)
            passes.append(sum(steps[name] for name in ("start", "scan", "merge corpus counts", "judge")))
    more = {"wall_seconds": rounded(passes), "wall_seconds_with_pack_and_report": rounded(wholes), "texts": TEXTS,
            "last_steps": {name: round(seconds, 2) for name, seconds in steps.items()}, "worker_core_seconds": shares,
            "texts_per_second_with_pack_and_report": round(TEXTS / median(wholes)), "workers": WORKERS,
            "processor_seconds": round(processor, 2), "load_average": os.getloadavg()[0]}  # fmt: skip
    return [at_least("text_pass", TEXTS / median(passes), "texts/s", 150_000, more)]
