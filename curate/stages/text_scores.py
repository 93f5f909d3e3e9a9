"""Scores of each text of a record, as one list a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from curate.core.contracts import Batch
from curate.stages.caption import fault


def texts_of(batch: Batch, captions: int) -> list[list[str | None]]:
    """Return the texts of each row, the web text and then `captions` captions; None for one with nothing to match in it."""
    web = [text if text and text.strip() else None for text in batch["text"].to_pylist()]
    if not captions:
        return [[text] for text in web]
    written = [found or [None] * captions for found in batch["captions"].to_pylist()]
    return [[text, *(None if fault(one) else one for one in found)] for text, found in zip(web, written, strict=True)]


def _scored(
    texts: Sequence[Sequence[str | None]], score: Callable[[Sequence[Sequence[str]]], list[list[float]]]
) -> list[list[float | None]]:
    """Score the texts that are there; None keeps its place."""
    found = score([[text for text in several if text is not None] for several in texts]) if texts else []
    answers = [iter(scores) for scores in found]
    return [[None if text is None else next(left) for text in several] for several, left in zip(texts, answers, strict=True)]


def _column(rows: int, where: list[int], scores: list[list[float | None]]) -> pa.Array:
    column: list[list[float | None] | None] = [None] * rows
    for row, found in zip(where, scores, strict=True):
        column[row] = found
    return pa.array(column, pa.list_(pa.float32()))
