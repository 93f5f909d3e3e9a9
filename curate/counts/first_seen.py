"""Which record was the first with the same image, or with the same image and text."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch
from curate.core.counting import PLACE_BITS, CorpusCount, Counting, Grouping, Keys, Merged, PartialCounts, Words
from curate.counts.keys import Identity, both_known, image_key, pair_key


@dataclass(frozen=True)
class FirstSeen(CorpusCount):
    """The place of the first record with the same key, as shard/row; null for that record, and for keys that occur once."""

    identity: Identity = "url"

    fact_type = pa.string()
    about = "image"
    version = 2
    schema = pa.schema([("key", pa.uint64()), ("row", pa.int64())])
    portable = False

    @property
    def partial(self) -> str:
        """Return the name of the keys and their rows."""
        return f"{self.fact}-{self.identity}"

    @property
    def needs_image_content(self) -> bool:
        """Return whether images are identified by their content hash."""
        return self.identity == "content"

    def described(self) -> list[Any]:
        """Return the fact and its parameter; the others were a floor and a vocabulary once, and are part of the names on disk."""
        return [self.fact, self.identity, 2, None]

    def exact_from(self) -> str:
        """Return the number of records from which there is a first one."""
        return "2 upward"

    def contributes(self, batch: Batch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the key and row of the records that have a key."""
        return both_known(self.key_of(batch), batch["row"])

    def reduce(self, keys: Keys, other: npt.NDArray[Any]) -> tuple[Keys, npt.NDArray[Any]]:
        """Return the two smallest rows of each key: the second shows that there is more than one."""
        order = np.lexsort((other, keys))
        keys, other = keys[order], other[order]
        new = np.ones(len(keys), np.bool_)  # a record with several texts has the same image on all of its rows
        new[1:] = (keys[1:] != keys[:-1]) | (other[1:] != other[:-1])
        keys, other = keys[new], other[new]
        first = np.ones(len(keys), np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        kept = first.copy()
        kept[1:] |= first[:-1]
        return keys[kept], other[kept]

    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        """Find the first place of each key that occurs more than once."""
        return Grouping("first", files, other="row"), 2

    def look_up(self, merged: Merged, batch: Batch, words: Words, shard: int) -> pa.Array:
        """Return shard/row of the first record (string), null for the first itself."""
        keys = self.key_of(batch)
        missing = keys.is_null().to_numpy(zero_copy_only=False)
        firsts = merged.values(keys.fill_null(0).to_numpy())
        own = (np.int64(shard) << PLACE_BITS) + batch["row"].to_numpy() + 1
        found = zip((missing | (firsts == 0) | (firsts == own)).tolist(), firsts.tolist(), strict=True)
        return pa.array([None if none else _named(first - 1) for none, first in found], pa.string())

    @abstractmethod
    def key_of(self, batch: Batch) -> pa.Array:
        """Return the key (uint64) that makes records duplicates of each other, null where there is none."""


@dataclass(frozen=True)
class FirstPair(FirstSeen):
    """The first record with the same image and the same normalised text."""

    fact = "first_pair"
    doc = "shard/row of the first record with this image and text, if another"

    def key_of(self, batch: Batch) -> pa.Array:
        """Return the key of image and text."""
        return pair_key(image_key(batch, self.identity), batch["text_key"])


@dataclass(frozen=True)
class FirstImage(FirstSeen):
    """The first record with the same image."""

    fact = "first_image"
    doc = "shard/row of the first record with this image, if another"

    def key_of(self, batch: Batch) -> pa.Array:
        """Return the key of the image."""
        return image_key(batch, self.identity)


def _named(place: int) -> str:
    return f"{place >> PLACE_BITS}/{place & ((1 << PLACE_BITS) - 1)}"
