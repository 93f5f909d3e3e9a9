"""Two corpus counts that the package knows nothing of, their filters, and a run with both: workers import them from here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import Batch, Filter, Runner, threshold
from curate.core.counting import CorpusCount, Counting, Grouping, Keys, Merged, PartialCounts, Words
from curate.counts.keys import both_known
from curate.counts.lookup import counted
from curate.driver.progress import Outcome
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.sources.listing import list_shards
from curate.stages.text import hash_strings
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.running import KEEP_ALL, jpeg

IMAGES = [(0, "a.org"), (1, "a.org"), (0, "a.org"), (2, "b.org"), (3, None), (1, "c.org"), (4, "a.org"), (2, "b.org")]
TEXTS = ["one", "one two", None, "one two three", "four", "", "one two", "five"]


def host_key(batch: Batch) -> pa.Array:
    """Return a hash of each URL's host, null without a URL."""
    hosts = [None if url is None else urlsplit(url).hostname for url in batch["url"].to_pylist()]
    found = pa.array(hosts, pa.string())
    return pc.if_else(found.is_valid(), pa.array(hash_strings(found), pa.uint64()), None)


@dataclass(frozen=True)
class ImagesPerHost(CorpusCount):
    """The number of different images of each host."""

    fact = "images_per_host"
    fact_type = pa.int64()
    about = "image"
    doc = "different images of this host"
    schema = pa.schema([("host", pa.uint64()), ("image", pa.uint64())])
    partial = "hosts"
    needs_image_content = True

    def contributes(self, batch: Batch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        return both_known(host_key(batch), batch["content_key"])

    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        return Grouping("distinct", files, "host", "image"), 1

    def look_up(self, merged: Merged, batch: Batch, words: Words, shard: int) -> pa.Array:
        return counted(merged, host_key(batch))


@dataclass(frozen=True)
class WordsPerHost(CorpusCount):
    """The number of words in the texts of each host."""

    fact = "words_per_host"
    fact_type = pa.int64()
    about = "text"
    doc = "words in the texts of this host"
    schema = pa.schema([("key", pa.uint64()), ("n", pa.int64())])
    partial = "host_words"
    needs_words = True

    def contributes(self, batch: Batch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        return both_known(host_key(batch), pa.array(np.diff(words.starts)))

    def reduce(self, keys: Keys, other: npt.NDArray[Any]) -> tuple[Keys, npt.NDArray[Any]]:
        found, place = np.unique(keys, return_inverse=True)
        return found, np.bincount(place, weights=other).astype(np.int64)

    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        return Grouping("sum", files), 1

    def look_up(self, merged: Merged, batch: Batch, words: Words, shard: int) -> pa.Array:
        return counted(merged, host_key(batch))


@dataclass(frozen=True)
class HostImages(Filter):
    """Drop images of hosts with more than `most` different images."""

    about = "image"
    paper = "none"
    evidence = pa.int64()
    most: int = threshold(2, "most images of a host")

    def reads(self) -> tuple[str, ...]:
        return ("images_per_host",)

    def provider(self) -> ImagesPerHost:
        return ImagesPerHost()

    def measure(self, batch: Batch) -> pa.Array:
        return batch["images_per_host"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        return pc.fill_null(pc.less_equal(evidence, self.most), True)


@dataclass(frozen=True)
class HostWords(Filter):
    """Drop texts of hosts with fewer than `least` words."""

    about = "text"
    paper = "none"
    evidence = pa.int64()
    least: int = threshold(1, "least words of a host")

    def reads(self) -> tuple[str, ...]:
        return ("words_per_host",)

    def provider(self) -> WordsPerHost:
        return WordsPerHost()

    def measure(self, batch: Batch) -> pa.Array:
        return batch["words_per_host"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        return pc.fill_null(pc.greater_equal(evidence, self.least), True)


def tables(folder: Path) -> list[Path]:
    """Write IMAGES and TEXTS as two shards."""
    folder.mkdir(parents=True)
    paths = []
    for number, rows in enumerate((slice(0, 5), slice(5, 8))):
        urls = [None if host is None else f"https://{host}/{seed}.jpg" for seed, host in IMAGES[rows]]
        columns = {"image": [jpeg(seed) for seed, _ in IMAGES[rows]], "text": TEXTS[rows], "url": urls}
        paths.append(folder / f"{number}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def run_with_counts(inputs: list[Path], out: Path, runner: Runner) -> Outcome:
    """Run KEEP_ALL with both filters in front."""
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / "recipe.yaml").write_text(KEEP_ALL)
    recipe = recipes.load(str(out.parent / "recipe.yaml"))
    rules: dict[str, Filter] = {"host_images": HostImages(), "host_words": HostWords(), **recipe.filters}
    plan, _ = resolve(planning.plan(dataclasses.replace(recipe, filters=rules)), Path(os.environ["CURATE_CACHE"]))
    return Run(plan, list_shards([str(path) for path in inputs], {}), Store(storage(out)), runner).run()


def expected() -> Iterator[tuple[int | None, int | None, str | None]]:
    """Yield images and words of each record's host, and which filter drops the record."""
    for (_, host), text in zip(IMAGES, TEXTS, strict=True):
        images = None if host is None else len({seed for seed, other in IMAGES if other == host})
        found = sum(len((words or "").split()) for (_, other), words in zip(IMAGES, TEXTS, strict=True) if other == host)
        words = None if host is None or not found else found  # what sums to nothing is not found
        yield images, words, "host_images" if (images or 0) > 2 else None if text else "missing_text"
