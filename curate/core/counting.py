"""What a corpus-wide count promises, and what it is merged with: partial counts of every shard, group-bys of an engine."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.facts import Fact, declare

Keys: TypeAlias = npt.NDArray[np.uint64]
"""64-bit hashes of images, texts or words."""

PLACE_BITS = 40
"""A place in the corpus is one int64: the shard's index above, the row in these bits."""


@dataclass(frozen=True, eq=False)
class PartialCounts:
    """The committed partial counts of one kind: one parquet file per shard, all in one folder (a path or an fsspec URL).

    `names` (string), `shards` (int64, their indexes) and `sizes` (int64, bytes) have one value per file.
    """

    folder: str
    names: pa.Array
    shards: pa.Array
    sizes: pa.Array

    def __len__(self) -> int:
        return len(self.names)

    def urls(self) -> Iterator[str]:
        """Yield the path or URL of each file."""
        for name in self.names:
            yield f"{self.folder}/{name.as_py()}"

    def bytes(self) -> int:
        """Return the total size of the files."""
        return int(pc.sum(self.sizes).as_py() or 0)


@dataclass(frozen=True)
class Grouping:
    """One group-by over the whole corpus, on the partial counts that every shard has committed.

    sum: the sum of column `n` for each key. histogram: the same, then for each sum (as the key) the number of keys with it.
    distinct: the number of different values of `other` for each key. first: the smallest place of each key that occurs in
    at least two rows, as (shard index << PLACE_BITS) + row + 1.
    """

    kind: Literal["sum", "histogram", "distinct", "first"]
    files: PartialCounts
    key: str = "key"  # uint64
    other: str = "n"  # the second column: n (int64), row (int64), or for distinct any uint64
    floor: int = 1  # keys with a smaller value are left out; for histogram, keys with a smaller sum


class Counting(Protocol):
    """A session of group-bys over the same shards: what two of them share (sums, distinct pairs) is computed once."""

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key (uint64) and value (int64), sorted by key, each key once."""


class Words(Protocol):
    """The hashed words of a batch of texts: text i has words[starts[i]:starts[i + 1]]."""

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Return where each text's words start, and the end of the last."""

    @property
    def words(self) -> Keys:
        """Return the hashes of all words."""

    def bigrams(self) -> tuple[Keys, npt.NDArray[np.bool_]]:
        """Return a key for each word and its successor, and whether both are in one text (length words - 1)."""


class Merged(Protocol):
    """The merged values of one count."""

    @property
    def floor(self) -> int:
        """Return the smallest value that was kept."""

    def values(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the value of each key, 0 where it is below the floor."""


class CorpusCount(ABC):
    """A fact that needs the whole corpus. A subclass is a frozen, picklable dataclass; its fields are its parameters.

    The scan of a shard collects `contributes` of its batches into one file of partial counts, which counts of the same
    `partial` share. Once all shards are scanned, the runner's engine merges these files by `grouping`. `look_up` then gives
    the fact of each record. See curate.counts for examples.
    """

    fact: ClassVar[str]  # the column's name
    fact_type: ClassVar[pa.DataType]
    about: ClassVar[Literal["image", "text"]]
    doc: ClassVar[str]

    cost: ClassVar[float] = 4e-6
    """Core-seconds a record, for `plan`: an order of magnitude."""

    version: ClassVar[int] = 1
    """Part of the names of partial and merged counts: raise it when the code changes what they hold."""

    schema: ClassVar[pa.Schema]
    """Columns of the partial counts: a uint64 key, and the second column of the grouping."""

    needs_words: ClassVar[bool] = False
    """Whether it reads `words`; otherwise it may be given empty ones."""

    portable: ClassVar[bool] = True
    """Whether counts merged over one input say anything about a shard of another one."""

    drops_rare: ClassVar[bool] = False
    """Whether filters drop records for small values: on a sample, where everything is rare, they drop too much."""

    def __init_subclass__(cls) -> None:
        """Enter the fact into curate.core.facts. Raises ValueError for a fact that is declared differently."""
        super().__init_subclass__()
        if all(hasattr(cls, name) for name in ("fact", "fact_type", "about", "doc")):
            declare([Fact(cls.fact, cls.fact_type, cls.about, cls.doc)], cls)

    @property
    @abstractmethod
    def partial(self) -> str:
        """Return the name of its partial counts: the same for counts that share them, without thresholds or floors."""

    @property
    def needs_image_content(self) -> bool:
        """Return whether it needs the images' bytes, so that it cannot be computed before images are fetched."""
        return False

    def described(self) -> list[Any]:
        """Return what distinguishes its merged counts from those of other counts, as JSON values."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return [self.fact, *(getattr(self, item.name) for item in fields)]

    def exact_from(self) -> str:
        """Return from which value upward it is exact, as shown by `curate plan`."""
        return "1 upward"

    def unmet_by(self, recorded: CorpusCount) -> str | None:
        """Return why the values of an earlier run's `recorded` cannot answer for this count; None where they can."""
        return None

    @abstractmethod
    def contributes(self, batch: pa.RecordBatch, words: Words) -> tuple[Keys, npt.NDArray[Any]]:
        """Return what a batch of base facts adds to the partial counts: the two columns of `schema`, without nulls.

        `batch` has row, url, text, sha256, text_key, url_key, content_key (see curate.passes.scan.BASE_SCHEMA).
        """

    def reduce(self, keys: Keys, other: npt.NDArray[Any]) -> tuple[Keys, npt.NDArray[Any]]:
        """Return fewer rows that merge to the same result; called on some million contributed rows at once."""
        return keys, other

    @abstractmethod
    def grouping(self, files: PartialCounts, session: Counting) -> tuple[Grouping, int]:
        """Return the group-by that merges the partial counts, and its floor for the look-up.

        `session` can run other group-bys first, where the floor depends on the corpus.
        """

    @abstractmethod
    def look_up(self, merged: Merged, batch: pa.RecordBatch, words: Words, shard: int) -> pa.Array:
        """Return the fact (of `fact_type`) for a batch of base facts of the shard with index `shard`.

        Null below the floor and for records that contribute nothing.
        """
