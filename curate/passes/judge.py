"""The verdicts of a shard: every filter evaluated, decisions and expensive facts committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.core import watchdog
from curate.core.contracts import Report, Shard
from curate.core.hashing import file_sha256
from curate.core.timing import Activities
from curate.counts.lookup import Lookup
from curate.fetch.image_log import base_batches, open_images
from curate.passes import decisions, problems
from curate.passes.evaluation import FetchedImagesLost, ShardEvaluation, count_facts, evaluating
from curate.passes.sampler import Sampler, Thumb, thumbs_in
from curate.passes.texts import by_text
from curate.planning.plan import Plan
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store

EMPTY: Mapping[str, int] = {"records": 0, "texts": 0, "kept": 0, "kept_texts": 0}
"""The tally of a shard without records."""


@dataclass(frozen=True)
class Judge:
    """The task: commits a shard's decisions, its thumbnails, and the expensive facts that it had to compute."""

    store: Store
    plan: Plan
    base: str
    run: str
    lookups: dict[str, Lookup]
    samples: int = 0  # thumbnails of each category
    key_prefix: str = ""  # of the keys of samples
    removed: str = ""  # digest of what was taken out of OUT
    earlier: dict[str, Lookup] = field(default_factory=dict)  # the counts of the verdicts that OUT has, where they were others
    row_seconds: float = watchdog.ROW_SECONDS
    threads: int = 1  # that decode pictures for models

    def __call__(self, shard: Shard) -> Report:
        """Judge one scanned shard. Verdicts by earlier counts stay where these are the same for all of its records."""
        activities = Activities()
        if (mark := self._unchanged(shard, activities)) is not None:
            self.store.commit(self.run, f"{self.marks}/{shard.index:06d}", mark)
            return Report(shard.index, mark.counts["records"], activities.seconds, {**activities.rows, **mark.counts}, mark.error)
        tally = dict(EMPTY)
        name = f"{shard.index:06d}.parquet"
        with activities.doing("write"), self.store.writing(f"decisions/{name}") as path:
            writer = ParquetWriter(path, decisions.schema(self.plan))
            with evaluating(self, shard, activities) as evaluation, activities.doing("judge"):
                sampler, kept = self._sampled(evaluation, writer, tally)
                sampler.thumbs = self._thumbs(name)
                with activities.doing("thumbnails"), self.store.writing(f"thumbs/{name}") as thumbs:
                    sampler.write(thumbs, evaluation.locate, evaluation.reader)
                with activities.doing("write"):
                    evaluation.commit()
            writer.close()
            file = File(path.stat().st_size, file_sha256(path), tally["kept"])
        error = (self.store.mark_of_facts(self.base, shard.fingerprint) or Mark()).error
        mark = Mark({f"decisions/{name}": file}, tally, error, made_with=kept)
        self.store.commit(self.run, f"{self.marks}/{shard.index:06d}", mark)
        return Report(shard.index, tally["records"], activities.seconds, {**activities.rows, **tally}, error)

    def _unchanged(self, shard: Shard, activities: Activities) -> Mark | None:
        """Return the mark of the shard's earlier verdicts if they are valid still; else remove it, for its decisions go."""
        name = f"{self.earlier_marks}/{shard.index:06d}"
        mark, counts = (self.store.mark(self.run, name) if self.earlier else None), self.plan.counts
        base = None if mark is None else self.store.facts(self.base, shard.fingerprint)
        if mark is None or base is None:
            return None
        with activities.doing("lookup"), open_images(self.store, shard) as images, self.store.storage.reading(base) as path:
            for batch in base_batches(images, path):
                texts = by_text(batch, self.plan.text)
                before, now = (count_facts(counts, lookups, texts, shard) for lookups in (self.earlier, self.lookups))
                if before != now:
                    self.store.unmark(self.run, [name])
                    return None
        return mark

    def _sampled(self, evaluation: ShardEvaluation, writer: ParquetWriter, tally: dict[str, int]) -> tuple[Sampler, str]:
        """Write the decisions; a shard whose fetched images are lost is not fetched any more. Raises FetchedImagesLost."""
        try:
            return self._judge(evaluation, writer, tally)
        except FetchedImagesLost:
            self.store.unmark(self.run, [f"{self.fetch_marks}/{evaluation.shard.index:06d}"])
            raise

    def _judge(self, evaluation: ShardEvaluation, writer: ParquetWriter, tally: dict[str, int]) -> tuple[Sampler, str]:
        """Write the decisions; return their sampler, and a hash of those of all kept texts, which is what samples are made of."""
        sampler, kept = Sampler(self.plan, self.samples), xxhash.xxh3_128()
        sampler.skipped = evaluation.crashing_rows
        for facts in evaluation.batches():
            table = evaluation.decisions(evaluation.evaluate(facts), self.key_prefix)
            with evaluation.activities.doing("write"):
                writer.write(table)
            count(tally, table)
            sampler.offer(table)
            update_kept(kept, table)
        return sampler, kept.hexdigest()

    def _thumbs(self, name: str) -> dict[int, Thumb]:
        """Return the thumbnails that an earlier judgement of the shard has made."""
        try:
            with self.store.storage.reading(f"thumbs/{name}") as path:
                return thumbs_in(path)
        except FileNotFoundError:
            return {}

    @property
    def marks(self) -> str:
        """Return the folder of its marks: other counts, for a shard that failed before may be in them now, another folder."""
        return f"judge-{_digest(self.lookups)}"

    @property
    def earlier_marks(self) -> str:
        """Return the folder of the marks of its earlier verdicts."""
        return f"judge-{_digest(self.earlier)}"

    @property
    def fetch_marks(self) -> str:
        """Return the folder of the marks of shards whose images are fetched: other corpus counts select other images."""
        return f"fetch-{_digest(self.lookups)}"


@dataclass(frozen=True)
class Prepare:
    """The task before it where models run on GPUs: commits the facts that cores compute, and whether the models are needed.

    It evaluates as the judge does, up to the first filter on a GPU, and decides nothing.
    """

    judge: Judge

    def __call__(self, shard: Shard) -> Report:
        """Prepare one scanned shard."""
        task, activities = self.judge, Activities()
        rows, asks = 0, False
        with evaluating(task, shard, activities) as evaluation:
            for facts in evaluation.batches():
                asks |= evaluation.evaluate(facts, task.plan.first_on_gpu).lacking
                rows += facts.num_rows
            with activities.doing("write"):
                evaluation.commit()
        task.store.commit(task.run, f"{self.marks_for_models if asks else self.marks}/{shard.index:06d}", Mark())
        return Report(shard.index, rows, activities.seconds, activities.rows)

    @property
    def marks(self) -> str:
        """Return the folder of its marks of shards for which no model has to run."""
        return f"prepare-{_digest(self.judge.lookups)}"

    @property
    def marks_for_models(self) -> str:
        """Return the folder of its marks of the other shards: a listing tells them apart, without a read per mark."""
        return f"models-{_digest(self.judge.lookups)}"


def _digest(lookups: dict[str, Lookup]) -> str:
    """Return a name for the corpus counts that the verdicts use: it stays where more input does not change any of them."""
    used = sorted(f"{fact} {lookup.floor} {lookup.digest}" for fact, lookup in lookups.items())
    return xxhash.xxh32_hexdigest("\n".join(used).encode())


def update_kept(kept: Any, table: pa.Table) -> None:
    """Update a hash of the decisions of all kept texts, which is all that the samples of a shard are made of."""
    for batch in table.filter(pc.is_null(table["dropped_by"])).combine_chunks().to_batches():
        kept.update(batch.serialize())


def count(tally: dict[str, int], table: pa.Table) -> None:
    """Add the records, texts and verdicts of a table of decisions to a tally."""
    tally["texts"] += table.num_rows
    tally["records"] += int(np.count_nonzero(table["text_no"].to_numpy() == 0))
    tally["kept"] += pc.count_distinct(table["sample_key"]).as_py()
    for item in pc.value_counts(table["dropped_by"]).to_pylist():
        name = "kept_texts" if item["values"] is None else f"dropped:{item['values']}"
        tally[name] = tally.get(name, 0) + item["counts"]
    for name, records in problems.of_decisions(table).items():
        tally[name] = tally.get(name, 0) + records
