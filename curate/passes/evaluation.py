"""The walk over a scanned shard: batches of its facts through the filters in order, dear facts only for rows still alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core import watchdog
from curate.core.contracts import IMAGE_ROWS, Batch, Shard
from curate.core.facts import FACTS
from curate.core.timing import Activities
from curate.counts.lookup import Lookup
from curate.fetch.image_log import ImageReader, known, open_images
from curate.passes.chunk import Chunk, Supply
from curate.passes.isolate import crashing_rows
from curate.passes.stored_facts import Stored
from curate.passes.verdict import Mask, Verdict
from curate.planning.plan import FETCH, Plan, Step, provider_key
from curate.stages.text import normalised, tokens
from curate.storage.store import Store

Index = npt.NDArray[np.int64]

WAIT = "wait"
"""The activity of a model that has no pictures yet: no work, and not part of any sum of it."""


class Task(Protocol):
    """What a task that walks knows."""

    @property
    def store(self) -> Store:
        """Return where facts are."""

    @property
    def plan(self) -> Plan:
        """Return what is walked."""

    @property
    def base(self) -> str:
        """Return the provider of base facts."""

    @property
    def lookups(self) -> dict[str, Lookup]:
        """Return the corpus counts by fact."""

    @property
    def row_seconds(self) -> float:
        """Return how long one image may be in a decoder."""

    @property
    def threads(self) -> int:
        """Return how many threads decode pictures for models."""


@contextmanager
def evaluating(task: Task, shard: Shard, activities: Activities) -> Iterator[ShardEvaluation]:
    """Give the walk over a scanned shard, with the rows that are being decoded on record."""
    with ExitStack() as held:
        with activities.doing("read"):
            images = held.enter_context(open_images(task.store, shard))
            walk = held.enter_context(ShardEvaluation(task, shard, images, activities))
        held.enter_context(watchdog.watching(task.row_seconds))
        yield walk


class ShardEvaluation:
    """Judges the batches of one shard in order.

    Up to the first filter that asks a model of pictures, a chunk is prepared in a thread of its own, one chunk ahead: the
    model does not wait for the reader or the decoder. Only that thread reads the shard meanwhile, which is read in order.
    """

    def __init__(self, task: Task, shard: Shard, opened: ImageReader, activities: Activities) -> None:
        self.plan, self.shard, self.opened, self.activities = task.plan, shard, opened, activities
        self._lookups = task.lookups
        self._store = task.store
        self._held = ExitStack()
        base = self._stored(task.base)
        if base is None:
            raise RuntimeError(f"shard {shard.index} was not scanned")
        self._base = base
        self.crashing_rows = crashing_rows(task.store, shard)
        stored = {stage.name: Stored(stage, self._stored(provider_key(stage))) for stage in task.plan.stages()}
        lazy = [step for step in task.plan.steps if step.lazy]
        cut = next((place for place, step in enumerate(lazy) if step.asks_for_pictures), len(lazy))
        self._before, self._models = lazy[:cut], lazy[cut:]
        self._ahead = ThreadPoolExecutor(1) if self._models else None
        decoders = ThreadPoolExecutor(task.threads) if self._models else None
        self._supply = Supply(opened, stored, self.crashing_rows, activities, decoders)

    def __enter__(self) -> ShardEvaluation:
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
        for facts in known(self.opened, self._base):
            if self.plan.fetches and not self.shard.on_the_web:
                facts = facts.append_column("fetched", pa.repeat("here", facts.num_rows))
            yield facts

    def judge(self, facts: Batch) -> pa.Table:
        """Return the decisions of a batch of base facts."""
        whole = self._known(facts)
        with self.activities.doing("judge", facts.num_rows):
            verdict = self._settled(whole)
            columns = dict(zip(whole.schema.names, whole.columns, strict=True))
            columns["error"] = _errors(whole)
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

    def to_fetch(self, facts: Batch, *, retry: bool) -> Batch:
        """Return row, url, given_sha256 of the records of a batch whose images are asked for and not known.

        With `retry` those that could not be fetched are asked for again.
        """
        whole = self._known(facts)
        with self.activities.doing("judge", facts.num_rows):
            verdict = self._settled(whole)
            fetch = next(step for step in self.plan.steps if step.name == FETCH)
            for index in self._pieces(whole, verdict):
                chunk = Chunk(self._supply, whole.take(pa.array(index)))
                for step in takewhile(lambda step: step is not fetch, self.plan.steps):
                    if step.lazy:
                        self._step(chunk, step, index, verdict)
        known = whole["fetched"]
        asked = pc.fill_null(pc.equal(known, "ok"), fill_value=False) if retry else known.is_valid()
        wanted = verdict.images_before(fetch) & ~asked.to_numpy(zero_copy_only=False)
        return whole.select(["row", "url", "given_sha256"]).filter(pa.array(wanted))

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
        """Return the verdicts that cost nothing; filters from `fetch` on judge images that somebody asked for."""
        verdict = Verdict(self.plan, whole.num_rows)
        where = np.ones(whole.num_rows, np.bool_)
        for step in self.plan.steps:
            if step.name == FETCH:
                where = whole["fetched"].is_valid().to_numpy(zero_copy_only=False)
            if not step.lazy:
                verdict.settle(step, where, whole if where.all() else whole.filter(pa.array(where)))
            if step.name == FETCH:
                where = pc.is_in(whole["fetched"], pa.array(["ok", "here"])).to_numpy(zero_copy_only=False)
        return verdict

    def _count_facts(self, facts: Batch) -> dict[str, pa.Array]:
        if not self.plan.counts:
            return {}
        needed = any(count.needs_words for count in self.plan.counts)
        words = tokens(normalised(facts["text"])) if needed else tokens(pa.nulls(facts.num_rows, pa.string()))
        return {c.fact: c.look_up(self._lookups[c.fact], facts, words, self.shard.index) for c in self.plan.counts}

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
        table = pa.Table.from_batches(known(self.opened, self._base, columns=("row", "offset", "bytes")))
        return table.filter(pc.is_in(table["row"], value_set=pa.array(rows)))

    def commit(self) -> None:
        """Store the facts that were computed, with those that were there."""
        for stored in self._supply.stored.values():
            if stored.grown():
                with self._store.writing_facts(provider_key(stored.stage), self.shard.fingerprint) as path:
                    stored.write(path)


def _errors(facts: Batch) -> pa.Array:
    """Return what is wrong with each record, and why its image could not be fetched."""
    if "fetched" not in facts.schema.names:
        return facts["error"]
    cause = pc.if_else(pc.is_in(facts["fetched"], pa.array(["ok", "here", "missing_url", None])), None, facts["fetched"])
    both = pc.binary_join_element_wise(facts["error"], cause.cast(pa.string()), ",")
    return pc.coalesce(both, facts["error"], cause.cast(pa.string()))


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
