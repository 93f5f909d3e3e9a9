"""The embedding of an image: one column for each model, which any number of scores read.

The column's name has the model's spec in it, so a stage names what it reads and nothing is registered: the plan adds the
stage that embeds. Vectors are large (5 kB a record) and not stored; the scores made of them are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch, ModelKind, Needs, Stage
from curate.core.facts import Fact
from curate.stages.pixels import pixels_of

if TYPE_CHECKING:
    from curate.models.protocols import Floats

_PREFIX = "embedding:"


def embedding_column(embedder: str) -> str:
    """Return the name of the column with an embedder's vectors."""
    return _PREFIX + embedder


@dataclass(frozen=True)
class EmbeddingStage(Stage):
    """Provides embedding:SPEC, the vector of length 1 that an embedder makes of `pixels`."""

    embedder: str
    weights: str | None = None

    cost: ClassVar[float] = 1.2e-2
    needs: ClassVar[Needs] = Needs(models=True)
    stored: ClassVar[bool] = False
    reads = ("pixels",)

    @property
    def name(self) -> str:
        """Return the name of its column."""
        return embedding_column(self.embedder)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Return the one fact."""
        return (Fact(self.name, pa.list_(pa.float32()), "image", f"the image as a vector of length 1, by {self.embedder}"),)

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the embedder."""
        return (("embedder", self.embedder),)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with the vectors (list<float32>) appended; null where there are no pixels. Raises ModelError."""
        from curate.models import load_embedder

        pixels, rows = pixels_of(batch)
        if not len(rows):
            return self.answer(batch, [], [])
        vectors = load_embedder(self.embedder).embed(pixels)
        return batch.append_column(self.provides.field(0), _lists(vectors, rows, batch.num_rows))


def embedding_stage(column: str) -> EmbeddingStage | None:
    """Return the stage that provides a column, or None for one that is no embedding.

    >>> embedding_stage("embedding:mini"), embedding_stage("pixels")
    (EmbeddingStage(embedder='mini', weights=None), None)
    """
    return EmbeddingStage(column.removeprefix(_PREFIX)) if column.startswith(_PREFIX) else None


def vectors_of(batch: Batch, embedder: str) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return an embedder's vectors, float32 [n, d], and their rows; nulls have none."""
    column = batch[embedding_column(embedder)]
    rows: npt.NDArray[np.int64] = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values: Floats = column.flatten().to_numpy()
    return values.reshape(len(rows), -1) if len(rows) else np.empty((0, 0), np.float32), rows


def _lists(vectors: Floats, rows: npt.NDArray[np.int64], count: int) -> pa.Array:
    """Return `count` lists: the vectors, float32 [n, d], at `rows`, null elsewhere."""
    there = np.zeros(count, np.bool_)
    there[rows] = True
    ends = np.cumsum(np.concatenate([[0], there * vectors.shape[1]]))
    offsets = pa.array(ends.astype(np.int32))
    values = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~there))
