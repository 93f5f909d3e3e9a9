"""How likely it is that an image is not safe for work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from curate.core.contracts import Batch, ModelKind, Needs, Stage
from curate.core.facts import schema
from curate.stages.pixels import pixels_of


@dataclass(frozen=True)
class NsfwStage(Stage):
    """Provides nsfw_score, 0 to 1, of column `pixels`."""

    classifier: str = "yahoo-open-nsfw"
    weights: str | None = None

    name: ClassVar[str] = "nsfw"
    version: ClassVar[int] = 1
    reads = ("pixels",)
    provides = schema(("nsfw_score",))
    needs = Needs(memory=2 << 30)

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the classifier."""
        return (("classifier", self.classifier),)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with nsfw_score (float32) appended; null where there are no pixels. Raises ModelError."""
        from curate.models import load_classifier

        pixels, rows = pixels_of(batch)
        column: list[float | None] = [None] * batch.num_rows
        if len(rows):
            scores = load_classifier(self.classifier).scores(pixels)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                column[row] = score
        return batch.append_column(self.provides.field(0), pa.array(column, pa.float32()))
