"""Scores of each text of a record, as one list a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from curate.core.contracts import Batch
from curate.stages.caption_faults import fault


def texts_of(batch: Batch) -> list[list[str | None]]:
    """Return the texts of each row: the web texts, then the captions where the batch has them; None for an empty text."""
    web = [[text if text and text.strip() else None] for text in batch["text"].to_pylist()]
    if "more_texts" in batch.schema.names:
        web = [[*first, *(more or ())] for first, more in zip(web, batch["more_texts"].to_pylist(), strict=True)]
    if "captions" not in batch.schema.names:
        return web
    captions = batch["captions"].to_pylist()
    most = max((len(found) for found in captions if found), default=0)
    written = [found or [None] * most for found in captions]
    return [[*texts, *(None if fault(one) else one for one in found)] for texts, found in zip(web, written, strict=True)]


def scored(
    texts: Sequence[Sequence[str | None]], score: Callable[[Sequence[Sequence[str]]], list[list[float]]]
) -> list[list[float | None]]:
    """Score the texts that are there; None keeps its place."""
    found = score([[text for text in several if text is not None] for several in texts]) if texts else []
    answers = [iter(scores) for scores in found]
    return [[None if text is None else next(left) for text in several] for several, left in zip(texts, answers, strict=True)]
