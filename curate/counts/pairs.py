"""What counts over (image, text) pairs share: their partial counts, the distinct pairs of a shard."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch
from curate.core.counting import CorpusCount, Counting, Grouping, Keys, Merged, PartialCounts, Words
from curate.counts.keys import Identity, both_known, image_key
from curate.counts.lookup import counted


@dataclass(frozen=True)
class Pairs(CorpusCount):
    """The number of different values of the other column for each image, or for each text."""

    identity: Identity = "url"
    record_from: int = 2

    fact_type = pa.int64()
    version = 2
    schema = pa.schema([("image", pa.uint64()), ("text", pa.uint64())])
    columns: ClassVar[tuple[str, str]]  # what is counted for, and what is counted

    @property
    def partial(self) -> str:
        """Return the name of the pairs."""
        return f"pairs-{self.identity}"

    @property
    def needs_image_content(self) -> bool:
        """Return whether images are identified by their content hash."""
        return self.identity == "content"

    def described(self) -> list[Any]:
        """Return the fact and its parameters; the null was a vocabulary once, and is part of the names on disk."""
        return [self.fact, self.identity, self.record_from, None]

    def exact_from(self) -> str:
        """Return the smallest recorded count."""
        return f"{self.record_from} upward"

    def contributes(self, batch: Batch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the image and text keys of the records that have both."""
        return both_known(image_key(batch, self.identity), batch["text_key"])

    def reduce(self, keys: Keys, other: npt.NDArray[Any]) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the distinct pairs, sorted."""
        order = np.lexsort((other, keys))
        keys, other = keys[order], other[order]
        new = np.ones(len(keys), np.bool_)
        new[1:] = (keys[1:] != keys[:-1]) | (other[1:] != other[:-1])
        return keys[new], other[new]

    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        """Count distinct values, from `record_from` upward."""
        key, other = self.columns
        return Grouping("distinct", files, key, other, self.record_from), self.record_from

    def look_up(self, merged: Merged, batch: Batch, words: Words, shard: int) -> pa.Array:
        """Return the count of each record's key (int64), null below the floor."""
        return counted(merged, self.key_of(batch))

    @abstractmethod
    def key_of(self, batch: Batch) -> pa.Array:
        """Return the key (uint64) under which each record is counted, null where there is none."""
