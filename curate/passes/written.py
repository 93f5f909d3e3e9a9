"""What is known of synthetic texts beside their scores: their words and language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from curate.core.contracts import Batch
from curate.planning.plan import Plan
from curate.stages.language import LanguageStage
from curate.stages.text import normalised


def facts_of(plan: Plan, texts: pa.Array) -> dict[str, pa.Array]:
    """Return the text, words, characters, language and language_score of texts (string array), as of web texts."""
    stage = next(stage for stage in plan.stages() if isinstance(stage, LanguageStage))
    known = stage(pa.record_batch({"text": texts}))
    return {**dict(zip(known.schema.names, known.columns, strict=True)), **plan.text.of(normalised(texts))}


def given(names: Iterable[str], of_text: Mapping[str, pa.Array], columns: Mapping[str, pa.Array], owner: pa.Array) -> Batch:
    """Return the facts that a filter reads of captions: their own, else those of the record's row `owner` (int64)."""
    found = {name: of_text[name] if name in of_text else columns[name].take(owner) for name in names}
    return pa.record_batch(found)
