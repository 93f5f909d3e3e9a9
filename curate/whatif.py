"""What other thresholds would keep, from recorded evidence alone: no image is read, no model runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import recipe as recipes
from curate.contracts import CorpusCount, Filter
from curate.errors import RecipeError

Mask = npt.NDArray[np.bool_]

_ROWS = 1 << 18


@dataclass
class FilterCount:
    """One filter's line: records it drops first, and records alive there that it was never evaluated on."""

    filter: str
    dropped: int = 0
    unknown: int = 0


@dataclass
class WhatIf:
    """The answer. With nothing unknown `at_least` equals `kept`; else the truth lies between them."""

    records: int = 0
    kept: int = 0  # kept if everything unknown is kept
    at_least: int = 0  # kept if everything unknown is dropped
    was: int = 0
    filters: list[FilterCount] = field(default_factory=list)


def what_if(out: Path, manifest: dict[str, Any], overrides: Sequence[str]) -> WhatIf:
    """Return the attrition of OUT's recipe with thresholds changed.

    Raises RecipeError for a parameter that changes facts (only a run can) and for a count below its recorded floor.
    """
    before = recipes.recorded(manifest["recipe"])
    after = recipes.recorded(manifest["recipe"], overrides)
    _refuse(before, after, manifest)
    answer = WhatIf(was=manifest["kept"], filters=[FilterCount(name) for name in after])
    for path in sorted((out / "decisions").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=["not_evaluated", *after]):
            _add(answer, batch, after)
    return answer


def _refuse(before: dict[str, Filter], after: dict[str, Filter], manifest: dict[str, Any]) -> None:
    for name, rule in after.items():
        for item in dataclasses.fields(rule):
            changed = getattr(rule, item.name) != getattr(before[name], item.name)
            if changed and item.metadata["setting"]:
                raise RecipeError(f"{name}.{item.name} changes facts, not only verdicts; use curate run --set")
        provider, recorded = rule.provider(), before[name].provider()
        if isinstance(provider, CorpusCount) and isinstance(recorded, CorpusCount):
            if provider.vocabulary and not recorded.vocabulary:
                raise RecipeError(f"{name}: the run counted no vocabulary; use curate run --set")
            floor = manifest["counts"][provider.fact]["floor"]
            if not rule.answerable(floor):
                raise RecipeError(
                    f"{name}: counts were recorded from {floor} upward, too high for this threshold; "
                    f"use curate run --set {name}.record_from=N with a smaller N"
                )


def _add(answer: WhatIf, batch: pa.RecordBatch, rules: dict[str, Filter]) -> None:
    rows = batch.num_rows
    missing = _not_evaluated(batch["not_evaluated"], list(rules))
    alive, doubtful = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
    for line, (name, rule) in zip(answer.filters, rules.items(), strict=True):
        kept = rule.keep(batch[name]).to_numpy(zero_copy_only=False) | missing[name]
        unknown = alive & missing[name]
        line.unknown += int(unknown.sum())
        doubtful |= unknown
        line.dropped += int((alive & ~kept).sum())
        alive &= kept
    answer.records += rows
    answer.kept += int(alive.sum())
    answer.at_least += int((alive & ~doubtful).sum())


def _not_evaluated(lists: pa.ListArray, names: list[str]) -> dict[str, Mask]:
    """Return, for each filter, the rows on which it was not evaluated."""
    parents = pc.list_parent_indices(lists).to_numpy()
    codes = pc.index_in(lists.flatten(), value_set=pa.array(names)).to_numpy(zero_copy_only=False)
    found = {}
    for code, name in enumerate(names):
        mask = np.zeros(len(lists), np.bool_)
        mask[parents[codes == code]] = True
        found[name] = mask
    return found
