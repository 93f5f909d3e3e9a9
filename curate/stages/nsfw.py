"""How likely it is that an image is not safe for work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from curate.core.contracts import Batch, ModelKind, Needs, Stage
from curate.core.facts import Fact
from curate.stages.pixels import pixels_of


@dataclass(frozen=True)
class NsfwStage(Stage):
    """Provides nsfw_score, 0 to 1, of column `pixels`."""

    classifier: str = "yahoo-open-nsfw"
    weights: str | None = None

    name: ClassVar[str] = "nsfw"
    cost: ClassVar[float] = 2e-2
    needs: ClassVar[Needs] = Needs(models=True)
    facts: ClassVar[tuple[Fact, ...]] = (Fact("nsfw_score", pa.float32(), "image", "probability of not safe for work, 0 to 1"),)
    reads = ("pixels",)

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the classifier."""
        return (("classifier", self.classifier),)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with nsfw_score (float32) appended; null where there are no pixels. Raises ModelError."""
        from curate.models import load_classifier

        pixels, rows = pixels_of(batch)
        scores = load_classifier(self.classifier).scores(pixels).tolist() if len(rows) else []
        return self.answer(batch, rows.tolist(), scores)
