"""The verdicts of a shard: counts looked up, filters walked in the recipe's order, dear facts only for rows still alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate import decisions, guard
from curate.activity import Activities
from curate.chunk import Chunk, Stored, Supply
from curate.contracts import IMAGE_ROWS, ROW_GROUP, Batch, Report, Shard
from curate.counts import Lookup, lookup_fact
from curate.digest import file_sha256
from curate.facts import FACTS
from curate.isolate import culprits
from curate.plan import Plan, Step, provider_key
from curate.sources import OpenShard, open_shard
from curate.stages.text import normalised, tokens
from curate.store import ParquetWriter, Store
from curate.thumbs import Sampler
from curate.verdict import Mask, Verdict

Index = npt.NDArray[np.int64]

WAIT = "wait"
"""The activity of a model that has no pictures yet: no work, and not part of any sum of it."""

ASKS = "-asks"
"""Ends the name of a mark of a prepared shard on which models have something to say."""


@dataclass(frozen=True)
class Judge:
    """The task: commits a shard's decisions, its thumbnails, and the dear facts that it had to compute."""

    store: Store
    plan: Plan
    base: str
    run: str
    lookups: dict[str, Lookup]
    samples: int = 0  # thumbnails of each category
    row_seconds: float = guard.ROW_SECONDS
    threads: int = 1  # that decode pictures for models

    def __call__(self, shard: Shard) -> Report:
        """Judge one scanned shard."""
        activities = Activities()
        tally: dict[str, int] = {"records": 0, "texts": 0, "kept": 0, "kept_texts": 0}
        name = f"{shard.index:06d}.parquet"
        with activities.doing("write"), self.store.writing(f"decisions/{name}") as path:
            writer = ParquetWriter(path, decisions.schema(self.plan))
            with _walking(self, shard, activities) as walk, activities.doing("judge"):
                sampler = self._judge(walk, writer, tally)
                with activities.doing("thumbnails"), self.store.writing(f"thumbs/{name}") as thumbs:
                    sampler.write(thumbs, walk.locate, walk.opened)
                with activities.doing("write"):
                    walk.commit()
            writer.close()
            digest = file_sha256(path)
        note = self.store.mark_of_facts(self.base, shard.fingerprint) or {}
        done = {"decisions": digest, "tally": tally, "error": note.get("error")}
        self.store.commit(self.run, f"{self.marks}/{shard.index:06d}", done)
        return Report(shard.index, tally["records"], activities.seconds, {**activities.rows, **tally}, note.get("error"))


    def _judge(self, walk: _Walk, writer: ParquetWriter, tally: dict[str, int]) -> Sampler:
        sampler = Sampler(self.plan, self.samples)
        sampler.skipped = walk.culprits
        for facts in walk.batches():
            table = walk.judge(facts)
            with walk.activities.doing("write"):
                writer.write(table)
            _count(tally, table)
            sampler.offer(table)
        return sampler

    @property
    def marks(self) -> str:
        """Return the folder of its marks: other counts, for a shard that failed before may be in them now, another folder."""
        return f"judge-{_digest(self.lookups)}"


@dataclass(frozen=True)
class Prepare:
    """The task before, where models have GPUs: commits the dear facts that cores compute, and whether models are needed.

    It walks as the judge does, up to the first filter that asks a model of pictures, and decides nothing.
    """

    judge: Judge

    def __call__(self, shard: Shard) -> Report:
        """Prepare one scanned shard."""
        task, activities = self.judge, Activities()
        rows, asks = 0, False
        with _walking(task, shard, activities) as walk:
            for facts in walk.batches():
                asks |= walk.prepare(facts)
                rows += facts.num_rows
            with activities.doing("write"):
                walk.commit()
        task.store.commit(task.run, f"{self.marks}/{shard.index:06d}{ASKS if asks else ''}", {})
        return Report(shard.index, rows, activities.seconds, activities.rows)

    @property
    def marks(self) -> str:
        """Return the folder of its marks."""
        return f"prepare-{_digest(self.judge.lookups)}"


@contextmanager
def _walking(task: Judge, shard: Shard, activities: Activities) -> Iterator[_Walk]:
    """Give the walk over a scanned shard, with the rows that are being decoded on record."""
    with ExitStack() as held:
        with activities.doing("read"):
            opened = held.enter_context(open_shard(shard))
            walk = held.enter_context(_Walk(task, shard, opened, activities))
        held.enter_context(guard.watching(task.row_seconds))
        yield walk


def _digest(lookups: dict[str, Lookup]) -> str:
    """Return what names the corpus counts that verdicts are made with."""
    return xxhash.xxh32_hexdigest(" ".join(sorted(lookup.name for lookup in lookups.values())).encode())


def _count(tally: dict[str, int], table: pa.Table) -> None:
    tally["texts"] += table.num_rows
    tally["records"] += int(np.count_nonzero(table["text_no"].to_numpy() == 0))
    tally["kept"] += pc.count_distinct(table["sample_key"]).as_py()
    for item in pc.value_counts(table["dropped_by"]).to_pylist():
        name = "kept_texts" if item["values"] is None else f"dropped:{item['values']}"
        tally[name] = tally.get(name, 0) + item["counts"]


class _Walk:
    """Judges the batches of one shard in order.

    Up to the first filter that asks a model of pictures, a chunk is prepared in a thread of its own, one chunk ahead: the
    model does not wait for the reader or the decoder. Only that thread reads the shard meanwhile, which is read in order.
    """

    def __init__(self, task: Judge, shard: Shard, opened: OpenShard, activities: Activities) -> None:
        self.plan, self.shard, self.opened, self.activities = task.plan, shard, opened, activities
        self._lookups = task.lookups
        self._store = task.store
        self._held = ExitStack()
        base = self._stored(task.base)
        if base is None:
            raise RuntimeError(f"shard {shard.index} was not scanned")
        self._base = base
        self.culprits = culprits(task.store, shard)
        stored = {stage.name: Stored(stage, self._stored(provider_key(stage))) for stage in task.plan.stages()}
        lazy = [step for step in task.plan.steps if step.lazy]
        cut = next((place for place, step in enumerate(lazy) if step.asks_for_pictures), len(lazy))
        self._before, self._models = lazy[:cut], lazy[cut:]
        self._ahead = ThreadPoolExecutor(1) if self._models else None
        decoders = ThreadPoolExecutor(task.threads) if self._models else None
        self._supply = Supply(opened, stored, self.culprits, activities, decoders)

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._ahead, self._supply.threads):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        self._held.close()

    def _stored(self, key: str) -> Path | None:
        """Return a path with this shard's facts of a provider, for the time of the walk; None where there are none."""
        name = self._store.facts(key, self.shard.fingerprint)
        return None if name is None else self._held.enter_context(self._store.storage.reading(name))

    def batches(self) -> Iterator[Batch]:
        """Yield the base facts of the shard."""
        yield from pq.ParquetFile(self._base).iter_batches(ROW_GROUP)

    def judge(self, facts: Batch) -> pa.Table:
        """Return the decisions of a batch of base facts."""
        whole = self._known(facts)
        with self.activities.doing("judge", facts.num_rows):
            verdict = self._settled(whole)
            columns = dict(zip(whole.schema.names, whole.columns, strict=True))
            return verdict.table(self.shard, {**columns, **self._walk_lazy(whole, verdict)})

    def prepare(self, facts: Batch) -> bool:
        """Compute what the filters before the models read, and return whether any row alive lacks what the models say."""
        whole, asks = self._known(facts), False
        with self.activities.doing("judge", facts.num_rows):
            verdict = self._settled(whole)
            for index in self._pieces(whole, verdict):
                chunk = self._before_models(whole, index, verdict)
                alive = verdict.images_before(self._models[0])[index]
                stages = [stage for step in self._models for stage in step.stages if "pictures" in stage.reads]
                asks |= any(chunk.missing(stage, alive).any() for stage in stages)
        return asks

    def _known(self, facts: Batch) -> Batch:
        """Return a batch of base facts with the counts looked up; stored facts are brought in step with it."""
        low = facts["row"][0].as_py() if facts.num_rows else 0
        for stored in self._supply.stored.values():
            stored.advance(low, low + facts.num_rows)
        with self.activities.doing("lookup", facts.num_rows):
            columns = {name: facts[name] for name in facts.schema.names}
            columns.update(self._count_facts(facts))
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _settled(self, whole: Batch) -> Verdict:
        """Return the verdicts that cost nothing."""
        verdict = Verdict(self.plan, whole.num_rows)
        for step in self.plan.steps:
            if not step.lazy:
                verdict.settle(step, np.ones(whole.num_rows, np.bool_), whole)
        return verdict

    def _count_facts(self, facts: Batch) -> dict[str, pa.Array]:
        if not self.plan.counts:
            return {}
        ngrams = any(count.kind == "ngrams" for count in self.plan.counts)
        words = tokens(normalised(facts["text"])) if ngrams else tokens(pa.nulls(facts.num_rows, pa.string()))
        return {c.fact: lookup_fact(c, self._lookups[c.fact], facts, words, self.shard.index) for c in self.plan.counts}

    def _walk_lazy(self, whole: Batch, verdict: Verdict) -> dict[str, pa.Array]:
        """Walk the filters that read dear facts, chunk by chunk of rows alive, and return those facts for the batch."""
        gathered: dict[str, list[pa.Array]] = {item.name: [] for stage in self.plan.stages() for item in stage.provides}
        where = np.zeros(whole.num_rows, np.bool_)
        for index, chunk in self._prepared(self._pieces(whole, verdict), lambda index: self._prepare(whole, index, verdict)):
            self._finish(chunk, index, verdict)
            where[index] = True
            for name, parts in gathered.items():
                parts.append(chunk.columns.get(name, pa.nulls(len(index), FACTS[name].type)))
        return {name: _spread(where, parts, FACTS[name].type) for name, parts in gathered.items()}

    def _pieces(self, whole: Batch, verdict: Verdict) -> Iterator[Index]:
        """Yield the rows on which anything dear can be asked, cut where images are."""
        first = next((step for step in self.plan.steps if step.lazy), None)
        start = verdict.images_before(first) if first is not None else verdict.alive_at_end()
        return _chunks(np.flatnonzero(start), whole["header"])

    def _prepared(self, pieces: Iterator[Index], prepare: Callable[[Index], Chunk]) -> Iterator[tuple[Index, Chunk]]:
        """Yield the pieces as prepared chunks, with the next one under way where models would have to wait for it."""
        if self._ahead is None:
            yield from ((index, prepare(index)) for index in pieces)
            return
        index = next(pieces, None)
        coming = None if index is None else self._ahead.submit(prepare, index)
        while index is not None and coming is not None:
            with self.activities.doing(WAIT):
                chunk = coming.result()
            ready, index = index, next(pieces, None)
            coming = None if index is None else self._ahead.submit(prepare, index)
            yield ready, chunk

    def _before_models(self, whole: Batch, index: Index, verdict: Verdict) -> Chunk:
        """Walk the filters before the models, and decode what the models will see if none of these filters asked for it."""
        chunk = Chunk(self._supply, whole.take(pa.array(index)))
        for step in self._before:
            self._step(chunk, step, index, verdict)
        for step in self._models[:1]:  # its pictures are decoded ones, so no later step brings the decoder
            for stage in step.stages:
                if "image" in stage.reads:
                    chunk.ensure(stage, verdict.alive_before(step)[index])
        return chunk

    def _prepare(self, whole: Batch, index: Index, verdict: Verdict) -> Chunk:
        """Walk the filters before the models, and decode the pictures that these will ask for."""
        chunk = self._before_models(whole, index, verdict)
        if self._models:
            alive = verdict.images_before(self._models[0])[index]
            for step in self._models:
                for stage in step.stages:
                    chunk.prepare(stage, alive)
        return chunk

    def _finish(self, chunk: Chunk, index: Index, verdict: Verdict) -> None:
        for step in self._models:
            self._step(chunk, step, index, verdict)
        alive = verdict.alive_at_end()[index]
        evaluated = {stage.name: verdict.alive_before(step)[index] for step in self.plan.steps for stage in step.stages}
        for stage in self.plan.last:
            chunk.ensure(stage, alive)
            evaluated[stage.name] = alive
        for stage in self.plan.stages():  # what an earlier recipe had computed must not show in this one's decisions
            for item in stage.provides:
                shown = pc.if_else(pa.array(evaluated[stage.name]), chunk.columns[item.name], None)
                chunk.columns[item.name] = shown.cast(item.type)

    def _step(self, chunk: Chunk, step: Step, index: Index, verdict: Verdict) -> None:
        alive = verdict.alive_before(step)[index]
        for stage in step.stages:
            chunk.ensure(stage, alive)
        if alive.any():
            verdict.settle(step, _at(index, alive, verdict.rows), chunk.batch(alive, step.rule.reads()))

    def locate(self, rows: Index) -> pa.Table:
        """Return row, offset and bytes of some rows, for reading their images again."""
        table = pq.ParquetFile(self._base).read(["row", "offset", "bytes"])
        return table.filter(pc.is_in(table["row"], value_set=pa.array(rows)))

    def commit(self) -> None:
        """Store the facts that were computed, with those that were there."""
        for stored in self._supply.stored.values():
            if stored.grown():
                with self._store.writing_facts(provider_key(stored.stage), self.shard.fingerprint) as path:
                    stored.write(path)


def _chunks(alive: Index, header: pa.Array) -> Iterator[Index]:
    """Cut rows alive so that at most IMAGE_ROWS of a piece have an image to decode."""
    if not len(alive):
        return
    decodable = pc.fill_null(pc.equal(header.take(pa.array(alive)), "ok"), fill_value=False).to_numpy(zero_copy_only=False)
    number = np.maximum(np.cumsum(decodable) - 1, 0) // IMAGE_ROWS
    yield from np.split(alive, np.flatnonzero(np.diff(number)) + 1)


def _at(index: Index, alive: Mask, rows: int) -> Mask:
    where = np.zeros(rows, np.bool_)
    where[index[alive]] = True
    return where


def _spread(where: Mask, parts: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Return an array of the whole batch with the chunks' values at the rows that were walked, null elsewhere."""
    if not parts:
        return pa.nulls(len(where), kind)
    place = pa.array(np.cumsum(where) - 1, mask=~where)
    return pa.concat_arrays(parts).cast(kind).take(place)
