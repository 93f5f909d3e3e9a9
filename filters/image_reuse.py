"""Rule on images with very many different texts."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, setting, threshold
from curate.counts.keys import Identity
from curate.counts.texts_per_image import TextsPerImage


@dataclass(frozen=True)
class ImageReuse(Filter):
    """Drop images with more than `max_texts` different alt-texts in the raw corpus.

    ALIGN (Jia et al. 2021, section 3): "images with more than 1000 associated alt-texts are removed". Texts are
    different when their normalised forms are (NFKC, casefold, whitespace). A null is a count below `record_from`.

    >>> ImageReuse(max_texts=1000).keep(pa.array([1000, 1001, None])).to_pylist()
    [True, False, True]
    """

    about = "image"
    paper = "ALIGN 2021, section 3"
    evidence = pa.int64()

    max_texts: int = threshold(1000, "most different alt-texts of a kept image")
    identity: Identity = setting("url", "what makes images one: url (else content hash), or content")
    record_from: int | None = setting(None, "counts are recorded from here upward; default: max_texts")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: texts_per_image."""
        return ("texts_per_image",)

    def provider(self) -> TextsPerImage:
        """Return the corpus count."""
        return TextsPerImage(self.identity, self.record_from or max(2, self.max_texts))

    def measure(self, batch: Batch) -> pa.Array:
        """Return the number of different alt-texts of the image."""
        return batch["texts_per_image"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep counts up to `max_texts`, and null."""
        return pc.fill_null(pc.less_equal(evidence, self.max_texts), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.max_texts,)

    def answerable(self, floor: int) -> bool:
        """Return whether no count below `floor` could be dropped."""
        return floor <= self.max_texts + 1

    def check(self) -> None:
        """Refuse a floor above which the threshold could not be judged, and a bound that every image exceeds."""
        if self.record_from is not None and self.record_from > self.max_texts + 1:
            raise ValueError(f"record_from {self.record_from} is above max_texts {self.max_texts}: counts between are unknown")
        if self.max_texts < 1:
            raise ValueError("max_texts must be at least 1")
