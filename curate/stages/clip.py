"""The cosine of an image and each of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch, ModelKind, Needs, Stage
from curate.core.facts import Fact
from curate.stages.embedding import embedding_column, vectors_of
from curate.stages.text_scores import scored, texts_of


@dataclass(frozen=True)
class ClipStage(Stage):
    """Provides clip_scores: the cosine of the image's embedding and that of each of its texts (CLIP similarity)."""

    embedder: str = "open_clip:ViT-B-32/openai"
    weights: str | None = None

    name: ClassVar[str] = "clip"
    cost: ClassVar[float] = 8e-3  # of the texts
    needs: ClassVar[Needs] = Needs(models=True)
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("clip_scores", pa.list_(pa.float32()), "image", "cosine of image and each text: the web texts', each caption's"),
    )
    optional: ClassVar[tuple[str, ...]] = ("captions", "more_texts")

    @property
    def reads(self) -> tuple[str, ...]:
        """Name the image's embedding and the web text."""
        return (embedding_column(self.embedder), "text")

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the embedder, which must embed texts too."""
        return (("text_embedder", self.embedder),)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with clip_scores (list<float32>) appended; null where there is no embedding. Raises ModelError."""
        from curate.models import load_text_embedder

        model = load_text_embedder(self.embedder)
        vectors, rows = vectors_of(batch, self.embedder)

        def cosines(texts: Sequence[Sequence[str]]) -> list[list[float]]:
            images = vectors.astype(np.float64)
            owners = np.repeat(np.arange(len(texts)), [len(several) for several in texts])
            written = model.embed_texts([text for several in texts for text in several]).astype(np.float64)
            flat = (images[owners] * written).sum(axis=1).tolist()  # float64: the same sum on every machine's BLAS
            ends = np.cumsum([0, *(len(several) for several in texts)]).tolist()
            return [flat[start:end] for start, end in pairwise(ends)]

        found = texts_of(batch)
        scores = scored([found[row] for row in rows.tolist()], cosines)
        return self.answer(batch, rows.tolist(), scores)
