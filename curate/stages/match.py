"""How well each text of a record fits its image: by a matcher (ITM) or by the cosine of an embedder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from curate.core.contracts import Batch, ModelKind, Needs, Precision, Stage
from curate.core.facts import Fact
from curate.stages.pixels import pictures_of
from curate.stages.text_scores import scored, texts_of

if TYPE_CHECKING:
    from curate.models.protocols import Matcher


@dataclass(frozen=True)
class MatchStage(Stage):
    """Provides match_scores: P(match) of the web text and of each caption, null for a text with nothing in it.

    CapFilt's filter (Li et al. 2022, BLIP, section 3.3): the image-text matching head of a model that was fine-tuned
    apart from the captioner. The web text is matched also where a text filter drops it: that is 2% of the work, the
    image being encoded anyway, and makes what-if exact for every text filter.
    """

    matcher: str = "hf:Salesforce/blip-itm-large-coco"
    batch: int = 128
    precision: Precision = "bfloat16"
    weights: str | None = None

    name: ClassVar[str] = "match"
    cost: ClassVar[float] = 2e-2
    needs: ClassVar[Needs] = Needs(gpus=1, models=True)
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("match_scores", pa.list_(pa.float32()), "image", "P(match) of each text: the web texts', then each caption's"),
    )
    reads = ("pictures", "text")
    optional: ClassVar[tuple[str, ...]] = ("captions", "more_texts")

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the matcher."""
        return (("matcher", self.matcher),)

    def side(self) -> int:
        """Return the side of the pictures that the model reads. Loads it. Raises ModelError."""
        return self._load().side

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with match_scores (list<float32>) appended; null where there is no picture. Raises ModelError."""
        model = self._load()
        pictures, rows = pictures_of(batch, model.side)
        found = texts_of(batch)
        texts = [[text if text is not None and model.reads(text) else None for text in several] for several in found]
        scores = scored([texts[row] for row in rows.tolist()], lambda given: model.match(pictures, given))
        return self.answer(batch, rows.tolist(), scores)

    def _load(self) -> Matcher:
        from curate.models import Compute, load_matcher

        return load_matcher(self.matcher, Compute(self.batch, self.precision))
