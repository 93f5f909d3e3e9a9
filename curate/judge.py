"""The verdicts of a shard: counts looked up, filters walked in the recipe's order, dear facts only for rows still alive."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import decisions, guard
from curate.activity import Activities
from curate.contracts import IMAGE_ROWS, ROW_GROUP, Batch, Report, Shard, Stage
from curate.counts import Lookup, lookup_fact
from curate.facts import FACTS, SHOWN
from curate.plan import Plan, Step, provider_key
from curate.sources import OpenShard, open_shard, shard_name
from curate.sources.records import image_array
from curate.stages.decode import PIXELS_SIDE
from curate.stages.text import normalised, tokens
from curate.store import ParquetWriter, Store, read_json
from curate.thumbs import Sampler

Mask = npt.NDArray[np.bool_]

_READ_ROWS = 32  # images read at once for a stage that keeps no pixels: the same memory again and again, still in cache

PIXELS_TYPE = pa.binary(PIXELS_SIDE * PIXELS_SIDE * 3)


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

    def __call__(self, shard: Shard) -> Report:
        """Judge one scanned shard."""
        activities = Activities()
        base = self.store.facts(self.base, shard.fingerprint)
        if base is None:
            raise RuntimeError(f"shard {shard.index} was not scanned")
        path = self.store.out / "decisions" / f"{shard.index:06d}.parquet"
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        writer = ParquetWriter(partial, decisions.schema(self.plan))
        sampler = Sampler(self.plan, self.samples)
        tally: dict[str, int] = {"records": 0, "kept": 0}
        with open_shard(shard) as opened, guard.journal(journal_of(self.store, shard), self.row_seconds):
            walk = _Walk(self, shard, opened, activities)
            sampler.skipped = walk.culprits
            for facts in pq.ParquetFile(base).iter_batches(ROW_GROUP):
                table = walk.judge(facts)
                with activities.doing("write"):
                    writer.write(table)
                _count(tally, table)
                sampler.offer(table)
            with activities.doing("thumbnails"):
                sampler.write(self.store.out / "thumbs" / f"{shard.index:06d}.parquet", walk.locate, opened)
            with activities.doing("write"):
                walk.commit()
        with activities.doing("write"):
            writer.close()
            digest = file_sha256(partial)
            os.replace(partial, path)
        note = self.store.mark_of_facts(self.base, shard.fingerprint) or {}
        done = {"decisions": digest, "tally": tally, "error": note.get("error"), "counts": counts_of(self.lookups)}
        self.store.commit(self.run, f"judge-{shard.index:06d}", done)
        return Report(shard.index, tally["records"], activities.seconds, {**activities.rows, **tally}, note.get("error"))


def counts_of(lookups: dict[str, Lookup]) -> list[str]:
    """Return what names the corpus counts that verdicts were made with: other shards in them, another name."""
    return sorted(lookup.folder.name for lookup in lookups.values())


def journal_of(store: Store, shard: Shard) -> Path:
    """Return where a worker notes the row that it is decoding."""
    return store.out / "work" / f"judge-{shard.index}.row"


def suspects_path(store: Store, shard: Shard) -> Path:
    """Return where rows that killed their decoder are recorded: {row: reason}."""
    return store.out / "facts" / "culprits" / f"{shard.fingerprint}.json"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count(tally: dict[str, int], table: pa.Table) -> None:
    tally["records"] += table.num_rows
    for item in pc.value_counts(table["dropped_by"]).to_pylist():
        name = "kept" if item["values"] is None else f"dropped:{item['values']}"
        tally[name] = tally.get(name, 0) + item["counts"]


@dataclass
class _Stored:
    """One stage's facts of this shard: what the store has, read in step with the rows, and what is added."""

    stage: Stage
    path: Path | None
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        self.schema = pa.schema([pa.field("row", pa.int64()), *self.stage.provides])
        self._batches = pq.ParquetFile(self.path).iter_batches(ROW_GROUP) if self.path else iter(())
        self._ahead = self.schema.empty_table()
        self._known = self.schema.empty_table()
        self._writer: ParquetWriter | None = None
        self.added = 0

    def advance(self, low: int, high: int) -> pa.Table:
        """Return the stored facts of rows low to high (exclusive)."""
        while not self._ahead.num_rows or self._ahead["row"][-1].as_py() < high:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._ahead = pa.concat_tables([self._ahead, pa.Table.from_batches([batch]).cast(self.schema)])
        inside = pc.and_(pc.greater_equal(self._ahead["row"], low), pc.less(self._ahead["row"], high))
        self._known = self._ahead.filter(inside)
        self._ahead = self._ahead.filter(pc.greater_equal(self._ahead["row"], high))
        return self._known


class _Chunk:
    """Rows alive of a batch, at most IMAGE_ROWS of them with an image: what is known of them so far."""

    def __init__(self, walk: _Walk, rows: Batch) -> None:
        self.walk, self.rows = walk, rows
        self.columns: dict[str, pa.Array] = {name: rows[name] for name in rows.schema.names}
        self.known: dict[str, Mask] = {}
        self._pictures: list[pa.Array] = []
        self._place: dict[int, int] = {}

    def ensure(self, stage: Stage, alive: Mask) -> None:
        """Make sure that the stage's facts are known on the rows alive."""
        if stage.name not in self.known:
            self._recall(stage)
        wanted = alive & ~self.known[stage.name]
        if stage.name == "decode":
            wanted = self._decode_known(wanted)
        if wanted.any():
            self._compute(stage, wanted)

    def _recall(self, stage: Stage) -> None:
        stored = self.walk.known(stage)
        rows = self.columns["row"].to_numpy()
        where = pc.index_in(self.columns["row"], value_set=stored["row"].combine_chunks())
        self.known[stage.name] = where.is_valid().to_numpy(zero_copy_only=False) if len(rows) else np.zeros(0, np.bool_)
        for item in stage.provides:
            self.columns[item.name] = stored[item.name].combine_chunks().take(where).cast(item.type)

    def _decode_known(self, wanted: Mask) -> Mask:
        """Fill in what needs no decoder: headers that already failed, and rows that killed theirs before."""
        header = self.columns["header"].to_pylist()
        rows = self.columns["row"].to_pylist()
        culprits = self.walk.culprits
        reasons = [culprits.get(row) or (None if state == "ok" else state) for row, state in zip(rows, header, strict=True)]
        found = np.array([reason is not None for reason in reasons], np.bool_) & wanted
        if found.any():
            self.put("decoding", found, pa.array([r for r, hit in zip(reasons, found.tolist(), strict=True) if hit], pa.string()))
            self.known["decode"] |= found
        return wanted & ~found

    def put(self, name: str, where: Mask, values: pa.Array) -> None:
        """Write `values` into the rows of `where`."""
        self.columns[name] = pc.replace_with_mask(self.columns[name], pa.array(where), values)

    def _compute(self, stage: Stage, wanted: Mask) -> None:
        index = np.flatnonzero(wanted)
        transient = getattr(stage, "transient", ())
        size = _READ_ROWS if "image" in stage.reads and not transient else len(index)
        located = self.rows.select(["row", "offset", "bytes"]).take(pa.array(index))
        images = iter(self.walk.opened.images(pa.Table.from_batches([located])) if "image" in stage.reads else ())
        parts = [self._answer(stage, index[at : at + size], images) for at in range(0, len(index), size)]
        answer = pa.Table.from_batches([part.select(["row", *stage.provides.names]) for part in parts]).combine_chunks()
        for item in stage.provides:
            self.put(item.name, wanted, _one(answer[item.name]).cast(item.type))
        if "pixels" in transient:
            self._hold(parts[0]["row"], parts[0]["pixels"])
        self.known[stage.name] |= wanted
        self.walk.add(stage, answer)

    def _answer(self, stage: Stage, index: npt.NDArray[np.int64], images: Iterator[bytes | None]) -> Batch:
        """Return what a stage says of some rows, with their numbers in `row`; takes as many of `images`."""
        rows = pa.array(index)
        names = [name for name in ("row", *stage.reads) if name in self.columns]
        columns = {name: self.columns[name].take(rows) for name in dict.fromkeys(names)}
        if "image" in stage.reads:
            with self.walk.activities.doing("read"):
                columns["image"] = image_array(list(islice(images, len(index))))
        if "pixels" in stage.reads:
            where = np.zeros(self.rows.num_rows, np.bool_)
            where[index] = True
            columns["pixels"] = self._pixels(where)
        given = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        with self.walk.activities.doing(stage.name, given.num_rows):
            return stage(given)

    def _pixels(self, wanted: Mask) -> pa.Array:
        """Return the pictures of rows, decoding those whose decode facts came from the store."""
        usable = [state == "ok" and row not in self.walk.culprits and row not in self._place for state, row in self._states()]
        again = wanted & np.array(usable, np.bool_)
        if again.any():
            given = self.batch(again, ("offset", "bytes", *self.walk.decode_stage().reads))
            given = given.append_column("image", self.walk.images(pa.table({n: given[n] for n in ("row", "offset", "bytes")})))
            with self.walk.activities.doing("decode", given.num_rows):
                answer = self.walk.decode_stage()(given)
            self._hold(given["row"], answer["pixels"])
        places = [self._place.get(row) for row in self.columns["row"].to_numpy()[wanted].tolist()]
        held = self._pictures[0] if len(self._pictures) == 1 else pa.concat_arrays(self._pictures or [pa.nulls(0, PIXELS_TYPE)])
        return held.take(pa.array(places, pa.int64()))

    def _states(self) -> Iterator[tuple[str | None, int]]:
        return zip(self.columns["header"].to_pylist(), self.columns["row"].to_pylist(), strict=True)

    def _hold(self, rows: pa.Array, pictures: pa.Array) -> None:
        start = sum(len(part) for part in self._pictures)
        self._place.update({row: start + place for place, row in enumerate(rows.to_pylist())})
        self._pictures.append(pictures)

    def batch(self, where: Mask, facts: tuple[str, ...]) -> Batch:
        """Return `row` and some facts (those that are known here) of some rows."""
        index = pa.array(np.flatnonzero(where))
        names = [name for name in dict.fromkeys(("row", *facts)) if name in self.columns]
        return pa.RecordBatch.from_arrays([self.columns[name].take(index) for name in names], names=names)


class _Walk:
    """Judges the batches of one shard in order."""

    def __init__(self, task: Judge, shard: Shard, opened: OpenShard, activities: Activities) -> None:
        self.plan, self.shard, self.opened, self.activities = task.plan, shard, opened, activities
        self._lookups = task.lookups
        self._store = task.store
        self._stored = {s.name: _Stored(s, task.store.facts(provider_key(s), shard.fingerprint)) for s in task.plan.stages()}
        self._kept_facts: dict[str, list[pa.Table]] = {name: [] for name in self._stored}
        self._added: dict[str, list[pa.Table]] = {name: [] for name in self._stored}
        self._known: dict[str, pa.Table] = {}
        self._base = task.base
        found = read_json(suspects_path(task.store, shard)) or {}
        self.culprits: dict[int, str] = {int(row): str(reason) for row, reason in found.items()}

    def known(self, stage: Stage) -> pa.Table:
        """Return the stored facts of a stage for the current batch."""
        return self._known[stage.name]

    def add(self, stage: Stage, table: pa.Table) -> None:
        """Take new facts to be committed."""
        self._added[stage.name].append(table)

    def decode_stage(self) -> Stage:
        """Return the plan's decode stage."""
        return self._stored["decode"].stage

    def images(self, rows: pa.Table) -> pa.Array:
        """Return the image bytes of rows (columns row, offset, bytes)."""
        return image_array(list(self.opened.images(rows)))

    def judge(self, facts: Batch) -> pa.Table:
        """Return the decisions of a batch of base facts."""
        low = facts["row"][0].as_py() if facts.num_rows else 0
        self._known = {name: stored.advance(low, low + facts.num_rows) for name, stored in self._stored.items()}
        with self.activities.doing("lookup", facts.num_rows):
            columns = {name: facts[name] for name in facts.schema.names}
            columns.update(self._count_facts(facts))
        with self.activities.doing("judge", facts.num_rows):
            verdict = _Verdict(self.plan, facts.num_rows)
            whole = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
            for step in self.plan.steps:
                if not step.lazy:
                    verdict.settle(step, np.ones(facts.num_rows, np.bool_), step.rule.measure(whole))
            lazy = self._walk_lazy(whole, verdict)
            return verdict.table(self.shard, {**columns, **lazy}, decisions.schema(self.plan))

    def _count_facts(self, facts: Batch) -> dict[str, pa.Array]:
        if not self.plan.counts:
            return {}
        ngrams = any(count.kind == "ngrams" for count in self.plan.counts)
        words = tokens(normalised(facts["text"])) if ngrams else tokens(pa.nulls(facts.num_rows, pa.string()))
        return {c.fact: lookup_fact(c, self._lookups[c.fact], facts, words, self.shard.index) for c in self.plan.counts}

    def _walk_lazy(self, whole: Batch, verdict: _Verdict) -> dict[str, pa.Array]:
        """Walk the filters that read dear facts, chunk by chunk of rows alive, and return those facts for the batch."""
        first = next((step for step in self.plan.steps if step.lazy), None)
        start = verdict.alive_before(first) if first is not None else verdict.alive_at_end()
        gathered: dict[str, list[pa.Array]] = {item.name: [] for stage in self.plan.stages() for item in stage.provides}
        rows: list[npt.NDArray[np.int64]] = []
        for index in _chunks(np.flatnonzero(start), whole["header"]):
            chunk = _Chunk(self, whole.take(pa.array(index)))
            self._walk_chunk(chunk, index, verdict)
            rows.append(index)
            for name, parts in gathered.items():
                parts.append(chunk.columns.get(name, pa.nulls(len(index), FACTS[name].type)))
        where = np.zeros(whole.num_rows, np.bool_)
        for index in rows:
            where[index] = True
        return {name: _spread(where, parts, FACTS[name].type) for name, parts in gathered.items()}

    def _walk_chunk(self, chunk: _Chunk, index: npt.NDArray[np.int64], verdict: _Verdict) -> None:
        for step in self.plan.steps:
            if not step.lazy:
                continue
            alive = verdict.alive_before(step)[index]
            for stage in step.stages:
                chunk.ensure(stage, alive)
            if alive.any():
                verdict.settle(step, _at(index, alive, verdict.rows), step.rule.measure(chunk.batch(alive, step.rule.reads())))
        alive = verdict.alive_at_end()[index]
        for stage in self.plan.last:
            chunk.ensure(stage, alive)
        evaluated = {stage.name: np.zeros(len(index), np.bool_) for stage in self.plan.stages()}
        for step in self.plan.steps:
            for stage in step.stages:
                evaluated[stage.name] = verdict.alive_before(step)[index]
        for stage in self.plan.last:
            evaluated[stage.name] = alive
        for stage in self.plan.stages():  # what an earlier recipe had computed must not show in this one's decisions
            for item in stage.provides:
                shown = pc.if_else(pa.array(evaluated[stage.name]), chunk.columns[item.name], None)
                chunk.columns[item.name] = shown.cast(item.type)

    def locate(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return row, offset and bytes of some rows, for reading their images again."""
        path = self._store.facts(self._base, self.shard.fingerprint)
        table = pq.ParquetFile(path).read(["row", "offset", "bytes"])
        return table.filter(pc.is_in(table["row"], value_set=pa.array(rows)))

    def commit(self) -> None:
        """Store the facts that were computed, with those that were there, sorted by row."""
        for name, tables in self._added.items():
            stored = self._stored[name]
            if not tables:
                continue
            known = [pq.ParquetFile(stored.path).read().cast(stored.schema)] if stored.path else []
            merged = pa.concat_tables([*known, *(table.select(stored.schema.names).cast(stored.schema) for table in tables)])
            with self._store.writing_facts(provider_key(stored.stage), self.shard.fingerprint) as path:
                writer = ParquetWriter(path, stored.schema, "lz4")
                writer.write(merged.sort_by("row"))
                writer.close()


def _chunks(alive: npt.NDArray[np.int64], header: pa.Array) -> Iterator[npt.NDArray[np.int64]]:
    """Cut rows alive so that at most IMAGE_ROWS of a piece have an image to decode."""
    if not len(alive):
        return
    decodable = pc.fill_null(pc.equal(header.take(pa.array(alive)), "ok"), fill_value=False).to_numpy(zero_copy_only=False)
    number = np.maximum(np.cumsum(decodable) - 1, 0) // IMAGE_ROWS
    yield from np.split(alive, np.flatnonzero(np.diff(number)) + 1)


def _at(index: npt.NDArray[np.int64], alive: Mask, rows: int) -> Mask:
    where = np.zeros(rows, np.bool_)
    where[index[alive]] = True
    return where


def _spread(where: Mask, parts: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Return an array of the whole batch with the chunks' values at the rows that were walked."""
    if not parts:
        return pa.nulls(len(where), kind)
    return pc.replace_with_mask(pa.nulls(len(where), kind), pa.array(where), pa.concat_arrays(parts).cast(kind))


class _Verdict:
    """What each filter says of each row of a batch: evaluated, evidence, failed; and who is alive by then."""

    def __init__(self, plan: Plan, rows: int) -> None:
        self.rows = rows
        self._steps = plan.steps
        self._evidence = {step.name: pa.nulls(rows, step.rule.evidence) for step in plan.steps}
        self._evaluated = {step.name: np.zeros(rows, np.bool_) for step in plan.steps}
        self._failed = {step.name: np.zeros(rows, np.bool_) for step in plan.steps}

    def settle(self, step: Step, where: Mask, evidence: pa.Array) -> None:
        """Judge the rows of `where` by evidence of exactly these."""
        evidence = _one(evidence).cast(step.rule.evidence)
        partly = len(evidence) < self.rows
        spread = pc.replace_with_mask(self._evidence[step.name], pa.array(where), evidence) if partly else evidence
        self._evidence[step.name] = spread
        self._evaluated[step.name] |= where
        self._failed[step.name][where] = ~_one(step.rule.keep(evidence)).to_numpy(zero_copy_only=False)

    def alive_before(self, step: Step | None) -> Mask:
        """Return the rows that no filter before `step` drops: with one text, a dropped text ends the record too."""
        alive = np.ones(self.rows, np.bool_)
        for other in self._steps:
            if step is not None and other.name == step.name:
                break
            alive &= ~self._failed[other.name]
        return alive

    def alive_at_end(self) -> Mask:
        """Return the rows that no filter drops."""
        return self.alive_before(None)

    def table(self, shard: Shard, columns: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
        """Return the decisions."""
        names = pa.array([*self._failed, None], pa.string())
        failed = np.stack([*self._failed.values(), np.ones(self.rows, np.bool_)], axis=1)
        first = failed.argmax(axis=1)
        kept = first == len(self._failed)
        keys = [decisions.sample_key(shard.index, row) for row in columns["row"].to_numpy()[kept].tolist()]
        values: dict[str, Any] = {
            "shard": pa.repeat(shard_name(shard), self.rows),
            "shard_index": pa.array(np.full(self.rows, shard.index, np.int32)),
            "sample_key": _spread(kept, [pa.array(keys, pa.string())], pa.string()),
            "text_no": pa.array(np.zeros(self.rows, np.int16)),
            "source": pa.repeat("web", self.rows),
            "dropped_by": names.take(pa.array(first)),
            "failed": decisions.name_lists({name: pa.array(mask) for name, mask in self._failed.items()}),
            "not_evaluated": decisions.name_lists({name: pa.array(~mask) for name, mask in self._evaluated.items()}),
            **{name: columns[name] for name in ("row", "key", "url", "text", "error")},
            **{fact.name: columns.get(fact.name, pa.nulls(self.rows, fact.type)) for fact in SHOWN},
            **({"eval_match": columns["eval_match"]} if "eval_match" in schema.names else {}),
            **self._evidence,
        }
        return pa.table([values[name] for name in schema.names], schema=schema)


def _one(values: Any) -> Any:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
