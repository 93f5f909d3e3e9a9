"""Rule on the length of the text."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, threshold


@dataclass(frozen=True)
class CaptionWords(Filter):
    """Drop texts of fewer than `min_words` or more than `max_words` unigrams.

    ALIGN (Jia et al. 2021, section 3): "we discard texts that are either too short (<3 unigrams) or too long
    (>20 unigrams)". Unigrams are whitespace-separated tokens of the normalised text; emoji and marks alone are none, and
    a text without a letter has none. Scripts without spaces, like Chinese, Japanese, Thai and Khmer, are cut into words by
    ICU (extra `icu`), or estimated by their letters. No text has no words and is dropped.

    >>> CaptionWords().keep(pa.array([2, 3, 20, 21, None], pa.int32())).to_pylist()
    [False, True, True, False, False]
    """

    about = "text"
    paper = "ALIGN 2021, section 3"
    evidence = pa.int32()

    min_words: int = threshold(3, "fewest unigrams of a kept text")
    max_words: int = threshold(20, "most unigrams of a kept text")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: words."""
        return ("words",)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the number of unigrams; null where there is no text."""
        return batch["words"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep counts within the two bounds, both included; a null is no text."""
        inside = pc.and_(pc.greater_equal(evidence, self.min_words), pc.less_equal(evidence, self.max_words))
        return pc.fill_null(inside, fill_value=False)

    def thresholds(self) -> tuple[float, ...]:
        """Return both thresholds for the histogram."""
        return (self.min_words, self.max_words)

    def check(self) -> None:
        """Refuse bounds that no text can meet."""
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}: every text would be dropped")
