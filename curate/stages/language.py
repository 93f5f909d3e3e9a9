"""Language of a text by fastText's lid.176 (Joulin et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.models.lid176 import SHA256, SPEC, load
from curate.stages.text import add_columns


@dataclass(frozen=True)
class LanguageStage(Stage):
    """ISO 639 code and probability (0 to 1) of the most likely language; null where there is no text.

    `weights`, the sha256 of the model's file, is part of the stage's identity; the file is checked against it when loaded.
    """

    weights: str = SHA256

    name: ClassVar[str] = "language"
    cost: ClassVar[float] = 1e-5
    anywhere: ClassVar[bool] = True
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("language", pa.string(), "text", "ISO 639 code by fastText lid.176", shown=True),
        Fact("language_score", pa.float32(), "text", "fastText's probability of it", shown=True),
    )
    reads = ("text",)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with language (string) and language_score (float32) appended. Raises ModelError."""
        texts = batch["text"].to_pylist()
        # fastText stops reading at a newline and at a null byte: neither may hide the rest of the text
        lines = [(text or "").replace("\n", " ").replace("\r", " ").replace("\0", " ") for text in texts]
        labels, scores = load().predict(lines) if lines else ([], [])
        known = [bool(text and text.strip() and len(label)) for text, label in zip(texts, labels, strict=True)]
        languages = [label[0].removeprefix("__label__") if ok else None for ok, label in zip(known, labels, strict=True)]
        # the quantised softmax can exceed 1 by rounding
        values = [min(1.0, float(np.float32(score[0]))) if ok else None for ok, score in zip(known, scores, strict=True)]
        columns = {"language": pa.array(languages, pa.string()), "language_score": pa.array(values, pa.float32())}
        return add_columns(batch, columns)


def model_facts() -> dict[str, str | None]:
    """Return the model as a row of a manifest's `models`: stage, kind, spec, revision, sha256."""
    return {"stage": LanguageStage.name, "kind": "language", "spec": SPEC, "revision": None, "sha256": SHA256}
