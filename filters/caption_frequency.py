"""Rule on texts with very many different images."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, setting, threshold
from curate.counts.images_per_text import ImagesPerText
from curate.counts.keys import Identity


@dataclass(frozen=True)
class CaptionFrequency(Filter):
    """Drop alt-texts that more than `max_images` different images of the raw corpus share.

    ALIGN (Jia et al. 2021, section 3): "we exclude alt-texts that are shared by more than 10 images ... often
    irrelevant to the content". Texts are one when their normalised forms are (NFKC, casefold, whitespace). A null is a
    count below `record_from`.

    >>> CaptionFrequency(max_images=10).keep(pa.array([10, 11, None])).to_pylist()
    [True, False, True]
    """

    about = "text"
    paper = "ALIGN 2021, section 3"
    evidence = pa.int64()

    max_images: int = threshold(10, "most different images of a kept text")
    identity: Identity = setting("url", "what makes images one: url (else content hash), or content")
    record_from: int | None = setting(None, "counts are recorded from here upward; default: max_images")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: images_per_text."""
        return ("images_per_text",)

    def provider(self) -> ImagesPerText:
        """Return the corpus count."""
        return ImagesPerText(self.identity, self.record_from or max(2, self.max_images))

    def measure(self, batch: Batch) -> pa.Array:
        """Return the number of different images of the text."""
        return batch["images_per_text"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep counts up to `max_images`, and null."""
        return pc.fill_null(pc.less_equal(evidence, self.max_images), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.max_images,)

    def answerable(self, floor: int) -> bool:
        """Return whether no count below `floor` could be dropped."""
        return floor <= self.max_images + 1

    def check(self) -> None:
        """Refuse a floor above which the threshold could not be judged, and a bound that every text exceeds."""
        if self.record_from is not None and self.record_from > self.max_images + 1:
            raise ValueError(f"record_from {self.record_from} is above max_images {self.max_images}: counts between are unknown")
        if self.max_images < 1:
            raise ValueError("max_images must be at least 1")
