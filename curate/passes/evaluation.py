"""The evaluation of a shard: batches of its facts through the filters in order, expensive facts only for rows still alive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core import watchdog
from curate.core.contracts import IMAGE_ROWS, Batch, CorpusCount, Shard, Stage
from curate.core.facts import Fact
from curate.core.timing import Activities
from curate.counts.lookup import Lookup
from curate.fetch.image_log import ImageReader, base_batches, open_images
from curate.passes import removed
from curate.passes.image_views import ImageSource
from curate.passes.isolate import crashing_rows
from curate.passes.piece import Piece, of_text
from curate.passes.shard_facts import ShardFacts
from curate.passes.texts import Mask, by_text, texts_of
from curate.passes.veil import FACTS
from curate.passes.verdict import Verdict
from curate.planning.plan import FETCH, Plan, Step
from curate.stages.text import normalised, tokens
from curate.storage.store import Store

Index = npt.NDArray[np.int64]

WAIT = "wait"
"""The activity of a model that has no pictures yet: no work, and not part of any sum of it."""


class Task(Protocol):
    """What a task that evaluates shards knows."""

    @property
    def store(self) -> Store:
        """Return where facts are."""

    @property
    def plan(self) -> Plan:
        """Return what is evaluated."""

    @property
    def lookups(self) -> dict[str, Lookup]:
        """Return the corpus counts by fact."""

    @property
    def removed(self) -> str:
        """Return the digest of what was taken out of OUT."""

    @property
    def row_seconds(self) -> float:
        """Return how long one image may be in a decoder."""

    @property
    def threads(self) -> int:
        """Return how many threads decode pictures for models."""


class FetchedImagesLost(RuntimeError):
    """Images that the fetch pass committed are not there any more."""


@dataclass(frozen=True)
class Evaluated:
    """A batch, evaluated up to a step: its facts, the verdicts, and whether living rows lack what the steps on GPUs compute."""

    facts: Batch
    verdict: Verdict
    columns: dict[str, pa.Array]
    lacking: bool
    removed: pa.Array  # string: the date on which a record was taken out, else null


@contextmanager
def evaluating(task: Task, shard: Shard, activities: Activities) -> Iterator[ShardEvaluation]:
    """Give the evaluation of a scanned shard, with the rows that are being decoded on record."""
    with ExitStack() as held:
        with activities.doing("read"):
            reader = held.enter_context(open_images(task.store, shard))
            evaluation = held.enter_context(ShardEvaluation(task, shard, reader, activities))
        held.enter_context(watchdog.watching(task.row_seconds))
        yield evaluation


class ShardEvaluation:
    """Evaluates the batches of one shard in order.

    Up to the first filter on a GPU a piece of a batch is prepared in a thread of its own, one piece ahead: the model does
    not wait for the reader or the decoder. Only that thread reads the shard meanwhile, which is read in order.
    """

    def __init__(self, task: Task, shard: Shard, reader: ImageReader, activities: Activities) -> None:
        self.plan, self.shard, self.reader, self.activities = task.plan, shard, reader, activities
        self.crashing_rows = crashing_rows(task.store, shard)
        self._lookups, self._removed = task.lookups, removed.load(task.store, task.removed)
        self._facts = ShardFacts(task.store, task.plan, shard)
        base = self._facts.stored(task.plan.base_key)
        if base is None:
            task.store.forget_facts(task.plan.base_key, shard.fingerprint)
            raise RuntimeError("its scanned facts are missing or damaged and will be computed again by the next run")
        self._base = base
        self._first_on_gpu = task.plan.first_on_gpu
        self._on_gpu = [step for step in task.plan.steps[len(task.plan.before(self._first_on_gpu)) :] if step.lazy]
        self._ahead = ThreadPoolExecutor(1) if self._on_gpu else None
        decoders = ThreadPoolExecutor(task.threads) if self._on_gpu else None
        self._source = ImageSource(reader, self.crashing_rows, task.plan.decode.max_bytes, activities, decoders)

    def __enter__(self) -> ShardEvaluation:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._ahead, self._source.threads):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        self._facts.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the base facts of the shard."""
        for facts in base_batches(self.reader, self._base):
            if self.plan.fetches and not self.shard.on_the_web:
                facts = facts.append_column("fetched", pa.repeat("here", facts.num_rows))
            yield facts

    def locate(self, rows: Index) -> pa.Table:
        """Return the base facts of some rows by which their images are read and judged again."""
        table = pa.Table.from_batches(base_batches(self.reader, self._base, columns=FACTS))
        return table.filter(pc.is_in(table["row"], value_set=pa.array(rows)))

    def commit(self) -> None:
        """Store the facts that were computed."""
        self._facts.commit()

    def evaluate(self, batch: Batch, until: Step | None = None) -> Evaluated:
        """Evaluate a batch of base facts by the filters before `until`; by all of them, and with all facts, for None.

        Batches come in the order of their rows.
        """
        facts = self._with_counts(batch)
        with self.activities.doing("judge", facts.num_rows):
            dates = self._removed.of_base(batch)
            if facts.num_rows > batch.num_rows:
                dates = dates.take(pa.array(texts_of(facts).record))
            verdict = self._settled(facts, dates.is_valid().to_numpy(zero_copy_only=False))
            pieces = self._cut(facts, verdict)
            if until is None:
                columns = self._whole(facts, pieces, verdict)
                self._check_fetched(facts, verdict)
                return Evaluated(facts, verdict, columns, lacking=False, removed=dates)
            lacking = False
            for index in pieces:
                piece = self._evaluated(facts, index, verdict, until)
                alive = verdict.images_before(until)[index]
                stages = [stage for step in self._on_gpu for stage in step.stages if stage.needs.gpus]
                lacking |= any(piece.missing(stage, alive).any() for stage in stages)
            return Evaluated(facts, verdict, {}, lacking, dates)

    def decisions(self, evaluated: Evaluated, key_prefix: str) -> pa.Table:
        """Return the decisions of a batch that was evaluated whole."""
        facts = evaluated.facts
        columns = dict(zip(facts.schema.names, facts.columns, strict=True))
        columns["error"] = _errors(facts)
        table = evaluated.verdict.table(self.shard, {**columns, **evaluated.columns}, key_prefix)
        if self._removed is removed.NOTHING:
            return table
        of_row = evaluated.removed.take(pc.index_in(table["row"].combine_chunks(), value_set=facts["row"]))
        dates = pc.coalesce(of_row, self._removed.of_decisions(table))  # by perceptual hash, which base facts do not have
        return removed.without(table, dates)

    def _with_counts(self, batch: Batch) -> Batch:
        """Return base facts by text, with the counts looked up; stored facts are brought in step with them."""
        low = batch["row"][0].as_py() if batch.num_rows else 0
        self._facts.advance(low, low + batch.num_rows)
        with self.activities.doing("lookup", batch.num_rows):
            texts = by_text(batch, self.plan.text)
            columns = dict(zip(texts.schema.names, texts.columns, strict=True))
            columns.update(count_facts(self.plan.counts, self._lookups, texts, self.shard))
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _settled(self, facts: Batch, gone: Mask) -> Verdict:
        """Return the verdicts that cost nothing; filters from `fetch` on judge only images that were requested."""
        verdict = Verdict(self.plan, texts_of(facts), gone, self._textless(facts))
        where = np.ones(facts.num_rows, np.bool_)
        for step in self.plan.steps:
            if step.name == FETCH:
                where = facts["fetched"].is_valid().to_numpy(zero_copy_only=False)
            if not step.lazy:
                verdict.settle(step, where, facts if where.all() else facts.filter(pa.array(where)))
            if step.name == FETCH:
                where = pc.is_in(facts["fetched"], pa.array(["ok", "here"])).to_numpy(zero_copy_only=False)
        return verdict

    def _textless(self, facts: Batch) -> Mask | None:
        """Return the records without a text, where the recipe drops them."""
        if self.plan.recipe.output.empty_text == "keep":
            return None
        mask: Mask = pc.equal(pc.coalesce(facts["characters"], 0), 0).to_numpy(zero_copy_only=False)
        return mask

    def _check_fetched(self, facts: Batch, verdict: Verdict) -> None:
        """Raise FetchedImagesLost where a record that must be fetched was not: its piece of the log is gone or damaged."""
        if self.plan.fetches:
            wanted = verdict.images_before(self.plan.step(FETCH))
            lost = np.count_nonzero(verdict.texts.at_heads(wanted) & facts["fetched"].is_null().to_numpy(zero_copy_only=False))
            if lost:
                raise FetchedImagesLost(f"{lost} fetched images are missing or damaged and will be fetched again by the next run")

    def _cut(self, facts: Batch, verdict: Verdict) -> Iterator[Index]:
        """Yield the rows that need anything expensive, cut into pieces of at most IMAGE_ROWS images."""
        first = next((step for step in self.plan.steps if step.lazy), None)
        alive = np.flatnonzero(verdict.texts.whole(verdict.images_before(first) if first is not None else verdict.alive_at_end()))
        if len(alive):
            header = facts["header"].take(pa.array(alive))
            decodable = pc.fill_null(pc.equal(header, "ok"), fill_value=False).to_numpy(zero_copy_only=False)
            number = np.maximum(np.cumsum(decodable & verdict.texts.heads[alive]) - 1, 0) // IMAGE_ROWS
            yield from np.split(alive, np.flatnonzero(np.diff(number)) + 1)

    def _evaluated(self, facts: Batch, index: Index, verdict: Verdict, until: Step | None) -> Piece:
        """Return a piece evaluated up to a step; the images that a step on a GPU will see are decoded at least once."""
        piece = Piece(self._facts, self._source, facts.take(pa.array(index)))
        for step in self.plan.before(until):
            if step.lazy:
                self._step(piece, step, index, verdict)
        if until is not None and until.on_gpu:  # its views are decoded ones: no later step brings the decoder
            for stage in until.stages:
                if "image" in stage.reads:
                    piece.ensure(stage, verdict.alive_before(until)[index])
        return piece

    def _whole(self, facts: Batch, pieces: Iterator[Index], verdict: Verdict) -> dict[str, pa.Array]:
        """Walk all filters that read expensive facts, a piece after the other, and return what decisions need of those facts."""
        gathered: dict[Fact, list[pa.Array]] = {fact: [] for fact in self.plan.gathered}
        where = np.zeros(facts.num_rows, np.bool_)
        for index, piece in self._prepared(facts, pieces, verdict):
            self._finish(piece, index, verdict)
            where[index] = True
            for fact, parts in gathered.items():
                parts.append(piece.columns[fact.name])
        return {fact.name: _spread(where, parts, fact.type) for fact, parts in gathered.items()}

    def _prepared(self, facts: Batch, pieces: Iterator[Index], verdict: Verdict) -> Iterator[tuple[Index, Piece]]:
        """Yield the pieces evaluated up to the steps on a GPU, with the next one under way where models would wait for it."""
        if self._ahead is None:
            yield from ((index, self._evaluated(facts, index, verdict, None)) for index in pieces)
            return
        index = next(pieces, None)
        coming = None if index is None else self._ahead.submit(self._prepare, facts, index, verdict)
        while index is not None and coming is not None:
            with self.activities.doing(WAIT):
                piece = coming.result()
            ready, index = index, next(pieces, None)
            coming = None if index is None else self._ahead.submit(self._prepare, facts, index, verdict)
            yield ready, piece

    def _prepare(self, facts: Batch, index: Index, verdict: Verdict) -> Piece:
        """Return a piece evaluated up to the steps on a GPU, with the views decoded that these will read."""
        piece = self._evaluated(facts, index, verdict, self._first_on_gpu)
        alive = verdict.images_before(self._first_on_gpu)[index]
        for step in self._on_gpu:
            for stage in _stored(step.stages):
                piece.prepare(stage, alive)
        return piece

    def _finish(self, piece: Piece, index: Index, verdict: Verdict) -> None:
        for step in self._on_gpu:
            self._step(piece, step, index, verdict)
        alive = verdict.alive_at_end()[index]
        evaluated = {stage.name: verdict.alive_before(step)[index] for step in self.plan.steps for stage in step.stages}
        _ensure(piece, self.plan.last, alive)
        evaluated |= {stage.name: alive for stage in self.plan.last}
        for stage in self.plan.stages():  # what an earlier recipe had computed must not show in this one's decisions
            for fact in stage.facts:
                if fact in self.plan.gathered:
                    where = evaluated[stage.name] if of_text(stage) else piece.texts.whole(evaluated[stage.name])
                    shown = pc.if_else(pa.array(where), piece.columns[fact.name], None)
                    piece.columns[fact.name] = shown.cast(fact.type)

    def _step(self, piece: Piece, step: Step, index: Index, verdict: Verdict) -> None:
        alive = verdict.alive_before(step)[index]
        _ensure(piece, step.stages, alive)
        if alive.any():
            where = np.zeros(verdict.rows, np.bool_)
            where[index[alive]] = True
            verdict.settle(step, where, piece.select(alive, step.rule.reads()))


def count_facts(counts: Sequence[CorpusCount], lookups: Mapping[str, Lookup], batch: Batch, shard: Shard) -> dict[str, pa.Array]:
    """Return the facts of corpus counts for a batch of base facts of a shard."""
    if not counts:
        return {}
    needed = any(count.needs_words for count in counts)
    words = tokens(normalised(batch["text"])) if needed else tokens(pa.nulls(batch.num_rows, pa.string()))
    return {count.fact: count.look_up(lookups[count.fact], batch, words, shard.index) for count in counts}


def _ensure(piece: Piece, stages: Iterable[Stage], alive: Mask) -> None:
    for stage in _stored(stages):
        piece.ensure(stage, alive)


def _stored(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield the stages that run on living rows; what is not stored is computed for those that read it."""
    return (stage for stage in stages if stage.stored)


def _errors(facts: Batch) -> pa.Array:
    """Return what is wrong with each record, and why its image could not be fetched."""
    if "fetched" not in facts.schema.names:
        return facts["error"]
    cause = pc.if_else(pc.is_in(facts["fetched"], pa.array(["ok", "here", "missing_url", None])), None, facts["fetched"])
    both = pc.binary_join_element_wise(facts["error"], cause.cast(pa.string()), ",")
    return pc.coalesce(both, facts["error"], cause.cast(pa.string()))


def _spread(where: Mask, parts: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Return an array of the whole batch with the pieces' values at the rows that were evaluated, null elsewhere."""
    if not parts:
        return pa.nulls(len(where), kind)
    place = pa.array(np.cumsum(where) - 1, mask=~where)
    return pa.concat_arrays(parts).cast(kind).take(place)
