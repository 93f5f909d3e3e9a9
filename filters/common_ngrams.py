"""Rule on texts with rare words."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, setting, threshold
from curate.counts.ngrams import RarestNgram


@dataclass(frozen=True)
class CommonNgrams(Filter):
    """Drop texts with any unigram or bigram outside the `vocabulary` most frequent of the raw corpus.

    ALIGN (Jia et al. 2021, section 3): "any rare token (outside of 100 million most frequent unigrams and bigrams from
    the raw dataset)" discards the text. The vocabulary is all n-grams with count >= c for the smallest c that fits it,
    never a cut through ties. With `min_count`, c is that instead. The evidence is the corpus count of the text's
    rarest n-gram: 0 when it is below the recorded floor, null when the text has no word at all (nothing is rare then).

    >>> CommonNgrams(min_count=5).keep(pa.array([0, 4, 5, None])).to_pylist()
    [False, False, True, True]
    """

    about = "text"
    paper = "ALIGN 2021, section 3"
    evidence = pa.int64()

    vocabulary: int = setting(100_000_000, "how many of the most frequent unigrams and bigrams are allowed")
    min_count: int | None = threshold(None, "the rarest n-gram's least corpus count; replaces vocabulary when given")
    record_from: int | None = setting(None, "with min_count, counts are recorded from here upward; default: min_count")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: rarest_ngram."""
        return ("rarest_ngram",)

    def provider(self) -> RarestNgram:
        """Return the corpus count."""
        if self.min_count is None:
            return RarestNgram(vocabulary=self.vocabulary)
        return RarestNgram(max(2, self.record_from or self.min_count))

    def measure(self, batch: Batch) -> pa.Array:
        """Return the corpus count of the text's rarest unigram or bigram."""
        return batch["rarest_ngram"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep counts from `min_count` (or any that the vocabulary holds), and null."""
        least = 1 if self.min_count is None else self.min_count
        return pc.fill_null(pc.greater_equal(evidence, least), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return () if self.min_count is None else (self.min_count,)

    def answerable(self, floor: int) -> bool:
        """Return whether every count below `floor` is dropped."""
        return self.min_count is None or floor <= self.min_count

    def check(self) -> None:
        """Refuse a vocabulary of nothing and a floor above which the threshold could not be judged."""
        if self.vocabulary < 1:
            raise ValueError("vocabulary must be at least 1")
        if self.record_from is not None and self.min_count is not None and self.record_from > self.min_count:
            raise ValueError(f"record_from {self.record_from} is above min_count {self.min_count}: counts between are unknown")
