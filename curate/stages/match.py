"""How well each text of a record fits its image: by a matcher (ITM) or by the cosine of an embedder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from curate.contracts import Batch, ModelKind, Needs, Precision, Stage
from curate.facts import schema
from curate.stages.caption import CaptionStage, fault
from curate.stages.embed import pixels_of
from curate.stages.pictures import pictures_of

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
    captions: CaptionStage | None = None
    batch: int = 128
    precision: Precision = "bfloat16"
    weights: str | None = None

    name: ClassVar[str] = "match"
    version: ClassVar[int] = 1
    provides = schema(("match_scores",))
    needs = Needs(memory=4 << 30)

    @property
    def reads(self) -> tuple[str, ...]:
        """Name pictures and texts."""
        return ("pictures", "text", *(() if self.captions is None else ("captions",)))

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
        found = texts_of(batch, 0 if self.captions is None else self.captions.per_image)
        texts = [[text if text is not None and model.reads(text) else None for text in several] for several in found]
        scores = _scored([texts[row] for row in rows.tolist()], lambda given: model.match(pictures, given))
        return batch.append_column(self.provides.field(0), _column(batch.num_rows, rows.tolist(), scores))

    def _load(self) -> Matcher:
        from curate.models import Compute, load_matcher

        return load_matcher(self.matcher, Compute(self.batch, self.precision))


@dataclass(frozen=True)
class ClipStage(Stage):
    """Provides clip_scores: the cosine of the image's embedding and that of each of its texts (CLIP similarity)."""

    embedder: str = "open_clip:ViT-B-32/openai"
    captions: CaptionStage | None = None
    weights: str | None = None

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    provides = schema(("clip_scores",))
    needs = Needs(memory=4 << 30)

    @property
    def reads(self) -> tuple[str, ...]:
        """Name pixels and texts."""
        return ("pixels", "text", *(() if self.captions is None else ("captions",)))

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the embedder."""
        return (("text_embedder", self.embedder),)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with clip_scores (list<float32>) appended; null where there are no pixels. Raises ModelError."""
        from curate.models import load_text_embedder

        model = load_text_embedder(self.embedder)
        pixels, rows = pixels_of(batch)

        def cosines(texts: Sequence[Sequence[str]]) -> list[list[float]]:
            images = model.embed(pixels).astype(np.float64)
            owners = np.repeat(np.arange(len(texts)), [len(several) for several in texts])
            vectors = model.embed_texts([text for several in texts for text in several]).astype(np.float64)
            flat = (images[owners] * vectors).sum(axis=1).tolist()  # float64: the same sum on every machine's BLAS
            ends = np.cumsum([0, *(len(several) for several in texts)]).tolist()
            return [flat[start:end] for start, end in pairwise(ends)]

        found = texts_of(batch, 0 if self.captions is None else self.captions.per_image)
        scores = _scored([found[row] for row in rows.tolist()], cosines)
        return batch.append_column(self.provides.field(0), _column(batch.num_rows, rows.tolist(), scores))


def texts_of(batch: Batch, captions: int) -> list[list[str | None]]:
    """Return the texts of each row, the web text and then `captions` captions; None for one with nothing to match in it."""
    web = [text if text and text.strip() else None for text in batch["text"].to_pylist()]
    if not captions:
        return [[text] for text in web]
    written = [found or [None] * captions for found in batch["captions"].to_pylist()]
    return [[text, *(None if fault(one) else one for one in found)] for text, found in zip(web, written, strict=True)]


def _scored(
    texts: Sequence[Sequence[str | None]], score: Callable[[Sequence[Sequence[str]]], list[list[float]]]
) -> list[list[float | None]]:
    """Score the texts that are there; None keeps its place."""
    found = score([[text for text in several if text is not None] for several in texts]) if texts else []
    answers = [iter(scores) for scores in found]
    return [[None if text is None else next(left) for text in several] for several, left in zip(texts, answers, strict=True)]


def _column(rows: int, where: list[int], scores: list[list[float | None]]) -> pa.Array:
    column: list[list[float | None] | None] = [None] * rows
    for row, found in zip(where, scores, strict=True):
        column[row] = found
    return pa.array(column, pa.list_(pa.float32()))
