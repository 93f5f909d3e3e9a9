"""How near an image is to the evaluation sets: by an embedding (cosine), or by perceptual hash (Hamming distance).

The search is exact: every row against every signature, in blocks of a memory-mapped file that all workers of a machine
share. How the signatures are made is for curate.stages.evalsets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.stages.embedding import embedding_column, vectors_of
from curate.stages.evalsets import EvalSetRef
from curate.stages.nearest import (
    _names,
    _signatures,
    nearest_hashes,
    nearest_vectors,
)
from curate.stages.pixels import hashes_of

DEFAULT_THRESHOLD = 0.89
"""Cosine of efficientnet-lite0 signatures from which an image counts as a near-duplicate.

Measured: all of the 145 copies in a 6,000-pair pool are found (lowest 0.903); of copies of the 61 ImageNet photos with
sides of 240 pixels or more 100% after JPEG q30, half size, grey, flip, 98% after brightness 1.25 and small text, 97% of
90% crops, 67% with a border. Of unrelated photos 0.11% are dropped against 3,076 images, none against 76; at 0.88 0.19%,
at 0.85 0.52%. What is dropped wrongly is mostly the same scene taken twice.
"""


_MATCH = Fact("eval_match", pa.string(), "image", "the evaluation image that is nearest: set/file", shown=True)


@dataclass(frozen=True)
class EvalSimilarityStage(Stage):
    """Provides eval_similarity, the largest cosine of the image's embedding to one of the sets, and eval_match, whose it is."""

    embedder: str = "efficientnet-lite0"
    sets: tuple[EvalSetRef, ...] = ()

    name: ClassVar[str] = "eval_similarity"
    cost: ClassVar[float] = 1e-4
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("eval_similarity", pa.float32(), "image", "largest cosine to an image of the evaluation sets"),
        _MATCH,
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Name the image's embedding."""
        return (embedding_column(self.embedder),)

    def resolved(self, cache: Path) -> EvalSimilarityStage:
        """Return the stage with its sets read, from `cache` where they were before. Raises InputError, ModelError."""
        from curate.stages.evalsets import signatures

        refs = tuple(signatures(ref.path, "embedding", self.embedder, cache) for ref in self.sets)
        return replace(self, sets=refs)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with both facts appended; null where there is no embedding."""
        vectors, rows = vectors_of(batch, self.embedder)
        if not len(rows) or not self.sets:
            return self.answer(batch, [], [], [])
        values, found = nearest_vectors(vectors, self.sets)
        names = _names(self.sets)
        return self.answer(batch, rows.tolist(), values.tolist(), [names[index] for index in found])


@dataclass(frozen=True)
class EvalDistanceStage(Stage):
    """Provides eval_distance, the smallest Hamming distance of `phash` to an image of the sets, and eval_match."""

    sets: tuple[EvalSetRef, ...] = ()

    name: ClassVar[str] = "eval_distance"
    cost: ClassVar[float] = 1e-6
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("eval_distance", pa.int16(), "image", "smallest Hamming distance of perceptual hashes to the sets"),
        _MATCH,
    )
    reads = ("phash",)

    def resolved(self, cache: Path) -> EvalDistanceStage:
        """Return the stage with its sets read, from `cache` where they were before. Raises InputError."""
        from curate.stages.evalsets import signatures

        return replace(self, sets=tuple(signatures(ref.path, "hash", "", cache) for ref in self.sets))

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with both facts appended; null where there is no hash."""
        hashes, rows = hashes_of(batch)
        if not len(rows) or not self.sets:
            return self.answer(batch, [], [], [])
        distances, found = nearest_hashes(hashes, np.concatenate([_signatures(ref.folder) for ref in self.sets]))
        names = _names(self.sets)
        return self.answer(batch, rows.tolist(), distances.tolist(), [names[index] for index in found])
