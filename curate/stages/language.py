"""Language of a text by fastText's lid.176 (Joulin et al. 2016)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.models.lid176 import SHA256, SPEC, load
from curate.stages.text import add_columns
from curate.stages.words import has_letters


@dataclass(frozen=True)
class LanguageStage(Stage):
    """ISO 639 code and probability (0 to 1) of the most likely language; null where there is no text, or none with a letter.

    `weights`, the sha256 of the model's file, is part of the stage's identity; the file is checked against it when loaded.
    """

    weights: str = SHA256

    name: ClassVar[str] = "language"
    version: ClassVar[int] = 2
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
        labels, scores = load().predict(list(map(line, texts))) if texts else ([], [])
        known = [bool(text and has_letters(text) and len(label)) for text, label in zip(texts, labels, strict=True)]
        languages = [label[0].removeprefix("__label__") if ok else None for ok, label in zip(known, labels, strict=True)]
        # the quantised softmax can exceed 1 by rounding
        values = [min(1.0, float(np.float32(score[0]))) if ok else None for ok, score in zip(known, scores, strict=True)]
        columns = {"language": pa.array(languages, pa.string()), "language_score": pa.array(values, pa.float32())}
        return add_columns(batch, columns)


def line(text: str | None) -> str:
    r"""Return what the model is asked about a text: its words in lower case, with single spaces between them.

    To the model capitals are other words, and so are words that a sign is glued to. fastText also stops reading at a newline
    and at a null byte: neither may hide the rest of the text.

    >>> line("WOMEN'S\r\n T-SHIRT, red\0")
    "women's t shirt red"
    """
    return " ".join((text or "").lower().translate(_signs()).split())


@cache
def _signs() -> dict[int, str | None]:
    """Return what becomes of punctuation and symbols (a space, but apostrophes stay) and of signs without width (nothing)."""
    codes = (code for code in range(0x20000) if unicodedata.category(chr(code))[0] in "PS" and chr(code) not in "'’")
    return {0: " ", **dict.fromkeys(codes, " "), **dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF))}


def model_facts() -> dict[str, str | None]:
    """Return the model as a row of a manifest's `models`: stage, kind, spec, revision, sha256."""
    return {"stage": LanguageStage.name, "kind": "language", "spec": SPEC, "revision": None, "sha256": SHA256}
