"""Computes what other thresholds would keep, from recorded evidence: no image is read, no model runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import CorpusCount, Filter
from curate.core.errors import OutputError, RecipeError
from curate.core.verdicts import TAKEN_OUT
from curate.planning import loader as recipes
from curate.report.query import parquet_files
from curate.report.rules import rules_of
from curate.storage.backend import Storage
from curate.storage.paths import opened

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

_ROWS = 1 << 16
_FILES = 8  # read concurrently, since remote ones are mostly waiting
_QUEUED = 64 * _FILES
_NONE = np.empty(0, np.int64)


@dataclass
class FilterCount:
    """Counts of a filter: texts it drops, and texts that reach it but were never evaluated by it."""

    filter: str
    dropped: int = 0
    unknown: int = 0


@dataclass
class WhatIf:
    """The result, in records: one is kept if any of its texts is. The exact number is between `at_least` and `kept`."""

    records: int = 0
    texts: int = 0
    kept: int = 0  # if all unknown verdicts are kept
    at_least: int = 0  # if all unknown verdicts are dropped
    was: int = 0
    filters: list[FilterCount] = field(default_factory=list)

    def add(self, other: WhatIf) -> None:
        """Add the counts of other records."""
        self.records, self.texts = self.records + other.records, self.texts + other.texts
        self.kept, self.at_least = self.kept + other.kept, self.at_least + other.at_least
        for line, more in zip(self.filters, other.filters, strict=True):
            line.dropped, line.unknown = line.dropped + more.dropped, line.unknown + more.unknown


def what_if(out: Storage, manifest: dict[str, Any], overrides: Sequence[str]) -> WhatIf:
    """Return the attrition of OUT's recipe with changed thresholds.

    Raises RecipeError for a parameter that changes facts (which needs a run) and for a count below its recorded floor,
    OutputError for a file that cannot be read or a merge of outputs of different filters, OSError.
    """
    if manifest.get("mixed_recipes"):
        raise OutputError(f"{out.root} is merged of outputs with different filters or thresholds: ask what-if of each of these")
    before = recipes.recorded(manifest["recipe"])
    after = recipes.recorded(manifest["recipe"], overrides)
    _refuse(before, after, manifest)
    answer = WhatIf(was=manifest["kept"], filters=[FilterCount(name) for name in after])
    textless_kept = manifest["recipe"]["output"].get("empty_text", "keep") == "keep"  # by versions before there was a choice
    of_captions = {name for name, rule in rules_of(manifest).items() if rule.captions}
    web_only = frozenset(name for name, rule in after.items() if rule.about == "text" and not rule.per_text) - of_captions
    counted = partial(_counted, _Rules(after, textless_kept, web_only), captioned="captions" in manifest["recipe"])
    files = parquet_files(out, "decisions")
    with ThreadPoolExecutor(_FILES) as threads:
        for start in range(0, len(files), _QUEUED):
            for one in threads.map(counted, files[start : start + _QUEUED]):
                answer.add(one)
    return answer


@dataclass(frozen=True)
class _Rules:
    """The filters by name, whether a record without text is kept if no filter drops it, and what judges no captions."""

    filters: dict[str, Filter]
    textless_kept: bool
    web_only: frozenset[str]

    def textless(self, batch: pa.RecordBatch) -> Mask:
        """Return the web texts that are dropped for being empty, whatever the thresholds."""
        if self.textless_kept:
            return np.zeros(batch.num_rows, np.bool_)
        empty = pc.and_(pc.equal(pc.coalesce(batch["characters"], 0), 0), pc.equal(batch["text_no"], 0))
        found: Mask = empty.to_numpy(zero_copy_only=False)
        return found


def _counted(rules: _Rules, url: str, *, captioned: bool) -> WhatIf:
    """Return the result for the records of one file; `captioned` is whether images get captions."""
    answer, tally = WhatIf(filters=[FilterCount(name) for name in rules.filters]), _Tally(captioned)
    known = ["row", "text_no", "source", "dropped_by", "not_evaluated", *([] if rules.textless_kept else ["characters"])]
    columns = list(dict.fromkeys([*known, *rules.filters]))
    try:
        file = pq.ParquetFile(opened(url), pre_buffer=True)
        # one thread per file: pyarrow's threads would wait for remote reads one by one
        for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
            tally.add(batch, _judged(answer, batch, rules))
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"cannot read {url}: {error}") from error
    answer.records, answer.kept, answer.at_least = tally.counted()
    return answer


@dataclass(frozen=True)
class _Fate:
    """Per text of a batch: kept if unknown verdicts are kept, certainly kept, image not dropped."""

    kept: Mask
    certain: Mask
    image: Mask


@dataclass
class _Tally:
    """Counts the records of a shard. With captions, an image that is no longer dropped would get some not written yet."""

    captioned: bool
    rows: list[Rows] = field(default_factory=list)
    numbers: list[Rows] = field(default_factory=list)
    written: list[Mask] = field(default_factory=list)
    fates: list[_Fate] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch, fate: _Fate) -> None:
        self.rows.append(batch["row"].to_numpy())
        self.numbers.append(batch["text_no"].to_numpy())
        self.written.append(pc.equal(batch["source"], "synthetic").to_numpy(zero_copy_only=False))
        self.fates.append(fate)

    def counted(self) -> tuple[int, int, int]:
        """Return how many records there are, how many may be kept, and how many certainly are."""
        rows, first = np.concatenate([*self.rows, _NONE]), np.concatenate([*self.numbers, _NONE]) == 0
        written = np.concatenate([*self.written, _NONE.astype(np.bool_)])
        kept, certain, image = (
            np.concatenate([*(getattr(fate, name) for fate in self.fates), _NONE.astype(np.bool_)])
            for name in ("kept", "certain", "image")
        )
        if first.all() and not self.captioned:
            return len(rows), int(kept.sum()), int(certain.sum())
        unwritten = np.setdiff1d(rows[~written & image], rows[written]) if self.captioned else _NONE
        possible = np.union1d(rows[kept], unwritten)
        return int(first.sum()), len(possible), len(np.unique(rows[certain]))


def _refuse(before: dict[str, Filter], after: dict[str, Filter], manifest: dict[str, Any]) -> None:
    for name, rule in after.items():
        for item in dataclasses.fields(rule):
            changed = getattr(rule, item.name) != getattr(before[name], item.name)
            if changed and item.metadata["setting"]:
                raise RecipeError(f"{name}.{item.name} changes facts, not only verdicts; use curate run --set")
        provider, recorded = rule.provider(), before[name].provider()
        if isinstance(provider, CorpusCount) and isinstance(recorded, CorpusCount):
            if (reason := provider.unmet_by(recorded)) is not None:
                raise RecipeError(f"{name}: {reason}; use curate run --set")
            floor = manifest["counts"][provider.fact]["floor"]
            if not rule.answerable(floor):
                raise RecipeError(
                    f"{name}: counts were recorded from {floor} upward, too high for this threshold; "
                    f"use curate run --set {name}.record_from=N with a smaller N"
                )


def _judged(answer: WhatIf, batch: pa.RecordBatch, given: _Rules) -> _Fate:
    rows, rules = batch.num_rows, given.filters
    missing = _not_evaluated(batch["not_evaluated"], list(rules))
    written = pc.equal(batch["source"], "synthetic").to_numpy(zero_copy_only=False)
    unmade = np.zeros(rows, np.bool_)  # captions of images that are now dropped before the captioner
    captioner = next((name for name, rule in rules.items() if rule.per_text), None)
    gone = pc.is_in(batch["dropped_by"], value_set=pa.array(TAKEN_OUT)).to_numpy(zero_copy_only=False)
    alive, doubtful, image = ~gone, np.zeros(rows, np.bool_), ~gone  # no threshold brings back what was taken out
    for line, (name, rule) in zip(answer.filters, rules.items(), strict=True):
        kept = rule.keep(batch[name]).to_numpy(zero_copy_only=False) | missing[name]
        captioner = None if name == captioner else captioner
        if rule.about == "image":
            image &= kept
            unmade |= written & ~kept & (captioner is not None)
        elif name in given.web_only:
            kept |= written
        unknown = alive & missing[name]
        line.unknown += int(unknown.sum())
        doubtful |= unknown
        alive &= ~unmade
        line.dropped += int((alive & ~kept).sum())
        alive &= kept
    alive &= ~given.textless(batch)
    answer.texts += rows - int((unmade | gone).sum())
    return _Fate(alive, alive & ~doubtful, image)


def _not_evaluated(lists: pa.ListArray, names: list[str]) -> dict[str, Mask]:
    """Return for each filter the rows on which it was not evaluated."""
    parents = pc.list_parent_indices(lists).to_numpy()
    codes = pc.index_in(lists.flatten(), value_set=pa.array(names)).to_numpy(zero_copy_only=False)
    found = {}
    for code, name in enumerate(names):
        mask = np.zeros(len(lists), np.bool_)
        mask[parents[codes == code]] = True
        found[name] = mask
    return found
