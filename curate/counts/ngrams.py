"""How frequent a text's rarest unigram or bigram is in the whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch
from curate.core.counting import CorpusCount, Counting, Grouping, Keys, Merged, PartialCounts, Words


@dataclass(frozen=True)
class RarestNgram(CorpusCount):
    """The count of each text's rarest n-gram: exact from `record_from`, or for the `vocabulary` most frequent ones.

    The vocabulary is never cut through ties. A floor of 1 means that all counts are known: those of 1 are left out of the
    merged counts, since what is not found there then counts exactly 1.
    """

    record_from: int = 2
    vocabulary: int | None = None

    fact = "rarest_ngram"
    fact_type = pa.int64()
    about = "text"
    doc = "corpus count of the text's rarest unigram or bigram; 0 below the floor"
    version = 2
    schema = pa.schema([("key", pa.uint64()), ("n", pa.int64())])
    needs_words = True
    drops_rare = True

    @property
    def partial(self) -> str:
        """Return the name of the n-grams: of any images."""
        return "ngrams-any"

    def described(self) -> list[Any]:
        """Return the parameters, with two constants that are part of the names on disk."""
        return ["ngrams", "url", self.record_from, self.vocabulary]

    def exact_from(self) -> str:
        """Return the smallest recorded count, which for a vocabulary only the merge knows."""
        return f"the vocabulary's {self.vocabulary:,} upward" if self.vocabulary else f"{self.record_from} upward"

    def unmet_by(self, recorded: CorpusCount) -> str | None:
        """Refuse counts without a vocabulary where one is needed."""
        counted = isinstance(recorded, RarestNgram) and recorded.vocabulary
        return "the run counted no vocabulary" if self.vocabulary and not counted else None

    def contributes(self, batch: Batch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the n-grams of all texts, and ones of a single byte: `reduce` replaces them by counts."""
        bigrams, inside = words.bigrams()
        keys = np.concatenate([words.words, bigrams[inside]])
        return keys, np.ones(len(keys), np.int8)

    def reduce(self, keys: Keys, other: npt.NDArray[Any]) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the distinct n-grams, sorted, and how often each occurs."""
        return np.unique(keys, return_counts=True)

    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        """Sum the counts; with a vocabulary, from the smallest count that fits it."""
        floor = 1 if self.record_from == 2 else self.record_from
        if self.vocabulary is not None:
            floor = _least_count(session.count(Grouping("histogram", files)), self.vocabulary)
        return Grouping("sum", files, floor=max(2, floor)), floor

    def look_up(self, merged: Merged, batch: Batch, words: Words, shard: int) -> pa.Array:
        """Return the smallest count of any n-gram of each text (int64): below the floor 0, or 1 where that is certain.

        Null for texts without a word. A word is never rarer than a bigram that contains it, so only words of texts of one
        word are looked up.
        """
        texts = len(words.starts) - 1
        if not len(words.words):
            return pa.nulls(texts, pa.int64())
        bigrams, inside = words.bigrams()
        lengths = np.diff(words.starts)
        alone = words.starts[:-1][lengths == 1]
        counts = merged.values(np.concatenate([bigrams[inside], words.words[alone]]))
        counts[counts == 0] = 1 if merged.floor == 1 else 0
        smallest = np.full(len(words.words), np.iinfo(np.int64).max)
        smallest[:-1][inside] = counts[: len(counts) - len(alone)]
        smallest[alone] = counts[len(counts) - len(alone) :]
        rarest = np.zeros(texts, np.int64)
        rarest[lengths > 0] = np.minimum.reduceat(smallest, words.starts[:-1][lengths > 0])
        return pa.array(rarest, pa.int64(), mask=lengths == 0)


def _least_count(histogram: Iterator[pa.RecordBatch], size: int) -> int:
    """Return the smallest c for which at most `size` n-grams have a count >= c, from batches of counts and their n-grams."""
    sums: list[tuple[int, int]] = []
    for batch in histogram:
        sums += zip(batch["key"].to_pylist(), batch["value"].to_pylist(), strict=True)
    total, least = 0, sums[-1][0] + 1 if sums else 1
    for n, number in reversed(sums):
        total += number
        if total > size:
            break
        least = n
    return least
