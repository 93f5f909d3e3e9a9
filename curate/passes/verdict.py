"""The verdicts of a batch: evidence, failures, which rows are alive at each filter, and the resulting decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Shard, shard_name
from curate.core.verdicts import MISSING_TEXT
from curate.passes import decisions, written
from curate.passes.texts import Index, Mask, Texts
from curate.planning.captions import of_captions
from curate.planning.plan import Plan, Step


class Judged:
    """The verdicts of some filters on some rows: evaluated, evidence, failed."""

    def __init__(self, steps: Iterable[Step], rows: int) -> None:
        self.rows = rows
        names = {step.name: step.rule.evidence for step in steps}
        self.evidence: dict[str, pa.Array] = {name: pa.nulls(rows, kind) for name, kind in names.items()}
        self.evaluated = {name: np.zeros(rows, np.bool_) for name in names}
        self.failed = {name: np.zeros(rows, np.bool_) for name in names}

    def settle(self, step: Step, where: Mask, evidence: pa.Array) -> None:
        """Judge the rows of `where` by evidence of exactly these."""
        evidence = combined(evidence).cast(step.rule.evidence)
        partly = len(evidence) < self.rows
        spread = pc.replace_with_mask(self.evidence[step.name], pa.array(where), evidence) if partly else evidence
        self.evidence[step.name] = spread
        self.evaluated[step.name] |= where
        self.failed[step.name][where] = ~combined(step.rule.keep(evidence)).to_numpy(zero_copy_only=False)

    def void(self, step: Step, where: Mask) -> None:
        """Take away the evidence that a filter has of some rows: a text with a fault has no score."""
        where = where & self.evaluated[step.name]
        if where.any():
            self.settle(step, where, pa.nulls(int(where.sum()), step.rule.evidence))

    def first(self) -> npt.NDArray[np.int64]:
        """Return the position of the first filter that each row fails; the number of filters for a row that fails none."""
        failed = np.stack([*self.failed.values(), np.ones(self.rows, np.bool_)], axis=1)
        found: npt.NDArray[np.int64] = failed.argmax(axis=1)
        return found

    def take(self, name: str, source: Judged, rows: npt.NDArray[np.int64]) -> None:
        """Copy the verdicts of one filter from `source`, taken at `rows`."""
        self.evidence[name] = source.evidence[name].take(pa.array(rows))
        self.evaluated[name], self.failed[name] = source.evaluated[name][rows], source.failed[name][rows]


class Verdict:
    """The verdicts of a batch of records, a row for each web text, and of each synthetic text.

    With captions in the plan, a filter of web texts drops a text but not its image: filters of images, and those that judge
    every text, still see the image (a captioner sees every living image).
    """

    def __init__(self, plan: Plan, texts: Texts, removed: Mask | None = None, textless: Mask | None = None) -> None:
        self.rows, self.texts = len(texts.number), texts
        self._plan = plan
        self._judged = np.ones(self.rows, np.bool_) if removed is None else ~removed  # no filter sees what was taken out
        self._textless = np.zeros(self.rows, np.bool_) if textless is None else textless  # dropped if nothing else drops them
        if plan.fetches and plan.captions is None:
            self._judged &= ~self._textless  # no site is asked for their images
        self._web = Judged(plan.steps, self.rows)
        self._captions = 0 if plan.captions is None else plan.captions.per_image
        self._written = Judged([step for step in plan.steps if step.rule.per_text], len(texts.first) * self._captions)

    def settle(self, step: Step, where: Mask, facts: Batch) -> None:
        """Judge the rows of `where`, given their facts: the web texts, and the captions if the filter judges every text."""
        if not step.rule.per_text:
            self._web.settle(step, where, step.rule.measure(facts))
            return
        self._web.settle(step, where, step.rule.measure(_texts(facts, self.texts.number[where])))
        if self._captions:
            records, places = np.unique(self.texts.record[where], return_index=True)
            numbers = (self.texts.sizes[records][:, None] + np.arange(self._captions)).ravel()
            several = _texts(facts.take(pa.array(np.repeat(places, self._captions))), numbers)
            self._written.settle(step, np.repeat(self.texts.of_records(where), self._captions), step.rule.measure(several))

    def alive_before(self, step: Step) -> Mask:
        """Return the rows that `step` judges."""
        images = bool(self._captions) and (step.rule.about == "image" or step.rule.per_text)
        return self._passing(step, ("image",) if images else ("image", "text"))

    def images_before(self, step: Step | None) -> Mask:
        """Return the rows that `step` or a later one can judge; with captions, a living image is enough."""
        return self._passing(step, ("image",) if self._captions else ("image", "text"))

    def alive_at_end(self) -> Mask:
        """Return the rows whose web text is kept."""
        return self._passing(None, ("image", "text"))

    def _passing(self, until: Step | None, abouts: Sequence[str]) -> Mask:
        alive = self._judged.copy()
        for other in self._plan.steps:
            if until is not None and other.name == until.name:
                break
            if other.rule.about in abouts:
                alive &= ~self._web.failed[other.name]
        return alive

    def table(self, shard: Shard, columns: dict[str, pa.Array], key_prefix: str = "") -> pa.Table:
        """Return the decisions, by row and then by text. Keys of samples begin with `key_prefix`."""
        schema = decisions.schema(self._plan)
        values = {
            "shard": pa.repeat(shard_name(shard), self.rows),
            "shard_index": pa.array(np.full(self.rows, shard.index, np.int32)),
            "text_no": pa.array(self.texts.number.astype(np.int16)),
            "source": pa.repeat("web", self.rows),
            **{name: columns[name] for name in ("row", "key", "url", "text", "error")},
            **{fact.name: columns.get(fact.name, pa.nulls(self.rows, fact.type)) for fact in self._plan.shown},
        }
        judgement = _judgement(self._web)
        lacking = pc.and_(pa.array(self._textless), judgement["dropped_by"].is_null())
        judgement["dropped_by"] = pc.if_else(lacking, MISSING_TEXT, judgement["dropped_by"])
        web = pa.table({**values, **judgement})
        made = self._written_table(web, columns) if self._captions else web.slice(0, 0)
        both = web if not made.num_rows else pa.concat_tables([web, made.select(web.column_names)])
        both = both.append_column("sample_key", _sample_keys(key_prefix, shard.index, both["row"], both["dropped_by"]))
        if made.num_rows:
            both = both.take(np.lexsort((both["text_no"].to_numpy(), both["row"].to_numpy())))
        return both.select(schema.names).cast(schema)

    def _written_table(self, web: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
        """Return the decisions of the captions: facts and verdicts of the image are those of the record."""
        captions, images = columns["captions"].take(pa.array(self.texts.first)), self._images()
        place = np.flatnonzero(np.repeat(captions.is_valid().to_numpy(zero_copy_only=False), self._captions))
        record = place // self._captions
        owner = pa.array(self.texts.first[record])
        texts = captions.drop_null().flatten()
        faults = self._faults(texts, columns["captions_cut"].take(pa.array(self.texts.first)).drop_null().flatten())
        known = written.facts_of(self._plan, texts)
        judged = Judged(self._plan.steps, len(place))
        for step in self._plan.steps:
            judged.evaluated[step.name][:] = True  # filters by corpus counts of web texts do not apply to captions
            if step.rule.per_text:
                judged.take(step.name, self._written, place)
                judged.void(step, faults.is_valid().to_numpy(zero_copy_only=False))
            elif step.rule.about == "image":
                judged.take(step.name, self._web, images[record])
        for step in of_captions(self._plan):
            facts = written.given(step.rule.reads(), known, columns, owner)
            judged.settle(step, judged.evaluated[step.name], step.rule.measure(facts))
        of_image = [fact.name for fact in self._plan.shown if fact.about == "image"]
        values = {name: combined(web[name]).take(owner) for name in ("shard", "shard_index", "row", "key", "url", *of_image)}
        of_text = [fact for fact in self._plan.shown if fact.about == "text"]
        values |= {fact.name: known.get(fact.name, pa.nulls(len(place), fact.type)) for fact in of_text}
        values["text_no"] = pa.array((self.texts.sizes[record] + place % self._captions).astype(np.int16))
        values |= {"source": pa.repeat("synthetic", len(place)), "text": texts}
        return pa.table({**values, "error": faults, **_judgement(judged)})

    def _faults(self, texts: pa.Array, cut: pa.Array) -> pa.Array:
        """Return the name of each caption's fault, null for one that has none."""
        stage = self._plan.captions
        return pa.array([] if stage is None else stage.faults(texts.to_pylist(), cut.to_pylist()), pa.string())

    def _images(self) -> Index:
        """Return the row whose verdicts by filters of images are those of each record.

        It is the first that passes them: of a record with several texts one may be a pair that is there already.
        """
        passing = np.flatnonzero(self._passing(None, ("image",)))
        found = self.texts.first.copy()
        records, places = np.unique(self.texts.record[passing], return_index=True)
        found[records] = passing[places]
        return found


def _texts(facts: Batch, numbers: Index) -> Batch:
    """Return facts of one text of each row: of those that are lists, the text's value; null where it has none."""
    columns = {}
    for name, column in zip(facts.schema.names, facts.columns, strict=True):
        if pa.types.is_list(column.type):
            inside = pc.fill_null(pc.list_value_length(column), 0).to_numpy() > numbers
            places = column.offsets.to_numpy()[:-1] + numbers
            column = column.values.take(pa.array(places, pa.int64(), mask=~inside))
        columns[name] = column
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _judgement(judged: Judged) -> dict[str, Any]:
    names = pa.array([*judged.failed, None], pa.string())
    return {
        "dropped_by": names.take(pa.array(judged.first())),
        "failed": decisions.name_lists({name: pa.array(mask) for name, mask in judged.failed.items()}),
        "not_evaluated": decisions.name_lists({name: pa.array(~mask) for name, mask in judged.evaluated.items()}),
        **judged.evidence,
    }


def _sample_keys(prefix: str, shard: int, rows: pa.ChunkedArray, dropped_by: pa.ChunkedArray) -> pa.Array:
    """Return the sample's key for every text of a record that has a kept one, null for the others."""
    numbers = rows.to_numpy()
    kept = np.isin(numbers, numbers[combined(dropped_by).is_null().to_numpy(zero_copy_only=False)])
    keys = [decisions.sample_key(prefix, shard, row) for row in numbers[kept].tolist()]
    return pc.replace_with_mask(pa.nulls(len(numbers), pa.string()), pa.array(kept), pa.array(keys, pa.string()))


def combined(values: Any) -> Any:
    """Return an array in one piece."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
