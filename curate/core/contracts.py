"""The seams: what a filter, a stage, a corpus count and a runner promise. Nothing here knows how they are met.

What a source promises is in curate.sources.source.

Inside a pass columns are added and rows are never removed by anyone but the engine: it hands a stage only the rows
that are still alive and puts the answers back where they belong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

Batch: TypeAlias = pa.RecordBatch

IMAGE_ROWS = 256
"""Records whose images are in memory at once; also where a batch is cut, so a result cannot depend on the number of workers."""

ROW_GROUP = 8192
"""Rows of a row group in every parquet file that is written, and of a batch of facts that is judged at once."""


@dataclass(frozen=True)
class Needs:
    """Resources of one task: cores, GPUs (may be a fraction) and memory in bytes; and whether it loads models."""

    cpus: float = 1
    gpus: float = 0
    memory: int = 1 << 30
    models: bool = False  # worth a worker that stays: weights are loaded once in each


@dataclass(frozen=True)
class Shard:
    """One input file, or a part of one: the unit of work, of commit and of resume.

    `index` is its position in the whole input (it orders records), `part` the source's own way to name a piece of a
    file (row groups of a parquet file, files of a folder). `fingerprint` changes when the content does: xxh3 of url,
    size, modification time or etag, and part, as 16 hex digits.
    """

    index: int
    url: str
    kind: str
    size: int
    fingerprint: str
    part: tuple[int, int] | None = None
    columns: tuple[tuple[str, str], ...] = ()  # of a table: role and name
    limit: int | None = None
    on_the_web: bool = False  # its records hold URLs, not image bytes: the images have to be fetched


RECORD_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # position in the shard, from 0, without gaps
        pa.field("key", pa.string(), nullable=False),  # the record's own key, as found (undecodable bytes replaced)
        pa.field("url", pa.string()),  # where the image came from, where the input says so
        pa.field("text", pa.string()),  # the web text; null when there is none
        pa.field("error", pa.string()),  # what is wrong with the record itself: see curate.sources.ERRORS
        pa.field("image", pa.binary()),  # the bytes as found; null when there are none
        pa.field("offset", pa.int64()),  # where the image's bytes stand in the file, where the source can seek
        pa.field("given_sha256", pa.string()),  # what the input says that a fetched image must be, hex
    ]
)


Precision: TypeAlias = Literal["bfloat16", "float32"]
"""What a large model calculates with."""

ModelKind: TypeAlias = Literal["captioner", "matcher", "text_embedder", "embedder", "classifier"]
"""What a model is asked for: the protocol of curate.models.protocols that it keeps."""


class ShardBreak(Exception):
    """A shard that cannot be read past some point; the records before it stand. The message says what and where."""


@runtime_checkable
class Stage(Protocol):
    """Provides facts. A frozen, picklable dataclass; its fields and `version` are its identity in the fact store.

    Models are loaded on the first call in a process and kept (see curate.models). Called with the rows alive, returns
    the same rows with the columns of `provides` (and any of `transient`) added. A row it cannot compute is a null.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that it needs: facts, or the transient columns image (bytes) and pixels (see curate.stages.decode)."""

    @property
    def provides(self) -> pa.Schema:
        """Facts that it adds."""

    @property
    def needs(self) -> Needs:
        """What a worker must have."""

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with the columns of `provides` appended."""


@runtime_checkable
class UsesModels(Protocol):
    """What a stage that loads models has beside the rest: they are checked before any work."""

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the models, each by kind and spec."""


@dataclass(frozen=True)
class CorpusCount:
    """A fact that needs the whole corpus: its kind (see curate.counts.merge), what it is keyed by, and from where it is exact."""

    fact: str
    kind: Literal["texts_per_image", "images_per_text", "ngrams", "first_pair", "first_image"]
    identity: Literal["url", "content"] = "url"
    record_from: int = 2
    vocabulary: int | None = None


def setting(default: Any, doc: str) -> Any:
    """Declare a parameter that changes facts: what-if cannot change it, only a run can."""
    return field(default=default, metadata={"doc": doc, "setting": True})


def threshold(default: Any, doc: str) -> Any:
    """Declare a parameter that only `keep` reads: what-if answers for it from recorded evidence."""
    return field(default=default, metadata={"doc": doc, "setting": False})


@dataclass(frozen=True)
class Filter(ABC):
    """One rule. A frozen dataclass whose fields are its parameters, each a `threshold` or a `setting`.

    `measure` turns facts into evidence with no threshold in it; `keep` judges that evidence and sees nothing else.
    The docstring starts "Drop" and cites the paper.
    """

    about: ClassVar[Literal["image", "text"]]
    paper: ClassVar[str]
    evidence: ClassVar[pa.DataType]  # Arrow type of what measure returns
    per_text: ClassVar[bool] = False  # judges synthetic texts too: its facts are lists, and it is handed a row for each text

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Name the facts that measure needs (see curate.core.facts)."""

    @abstractmethod
    def measure(self, batch: Batch) -> pa.Array:
        """Return the evidence, one value a row of `batch` (which holds at least the facts that `reads` names)."""

    @abstractmethod
    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Judge evidence; no null in the answer. What a null of the evidence means is the filter's to say."""

    def provider(self) -> Stage | CorpusCount | None:
        """Return what provides a fact that only this filter's settings define; None for facts that stand for all."""
        return None

    def thresholds(self) -> tuple[float, ...]:
        """Return the thresholds to draw into a histogram of the evidence; empty where it is not a number."""
        return ()

    def answerable(self, floor: int) -> bool:
        """Return whether counts that are recorded from `floor` upward are enough for this filter's verdicts."""
        return True

    def check(self) -> None:  # noqa: B027 - most filters have nothing to refuse
        """Raise ValueError when parameters contradict each other; the message is shown with file and line."""


@dataclass(frozen=True)
class Report:
    """What a task says of one shard: small, never image bytes."""

    shard: int
    rows: int
    seconds: dict[str, float] = field(default_factory=dict)  # by activity: read, decode, embed, ... for dry-run and the breakdown
    counts: dict[str, int] = field(default_factory=dict)
    error: str | None = None  # the shard is partial (ShardBreak) or failed
    failed: bool = False


PLACE_BITS = 40
"""A place in the corpus is one int64: the shard's index above, the row in these bits."""


@dataclass(frozen=True, eq=False)
class PartialCounts:
    """The committed partial counts of one kind, a parquet file a shard in one folder (a path or an fsspec URL).

    `names` (string), `shards` (int64: their indexes) and `sizes` (int64: bytes) have a value a file.
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
        """Return the size of all files."""
        return int(pc.sum(self.sizes).as_py() or 0)


@dataclass(frozen=True)
class Grouping:
    """One group-by over the whole corpus, of the partial counts that every shard has committed (see curate.counts.merge).

    sum: the sum of column n for each `key`. histogram: the same, then for each sum (as key) how many keys have it.
    distinct: how many different values of `other` stand with each `key`. first: the smallest place of each `key` that
    stands in two rows or more, as (shard index << PLACE_BITS) + row + 1.
    """

    kind: Literal["sum", "histogram", "distinct", "first"]
    files: PartialCounts
    key: str = "key"  # uint64
    other: str = "n"  # the second column: n, row (int64), text, image (uint64)
    floor: int = 1  # keys of a smaller value are left out; for histogram, keys of a smaller sum


class Counting(Protocol):
    """A session of group-bys, all over the same shards: what two of them share (sums, distinct pairs) is computed once."""

    def count(self, grouping: Grouping) -> Iterator[pa.RecordBatch]:
        """Yield key (uint64) and value (int64), sorted by key, each key once."""


T = TypeVar("T")
R = TypeVar("R")


class Runner(Protocol):
    """Moves tasks over shards. Knows nothing of what a task does."""

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield an answer, or how it died, for every item, in any order; a dead worker never stops the others.

        Items are taken as workers get free. Where `needs` names a GPU, a task sees that one alone (CUDA_VISIBLE_DEVICES).
        """

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        """Open a session on the engine's own shuffle; where that runs in this process, within `memory` bytes.

        `scratch` is a folder (path or fsspec URL) that every worker reaches; its owner removes it.
        """


@dataclass(frozen=True)
class TaskDied:
    """An item whose worker died (signal, out of memory) or raised: the item and what happened, in words."""

    item: Any
    reason: str
    exitcode: int | None = None
    error: str | None = None  # the class of the exception that it raised


def shard_name(shard: Shard) -> str:
    """Return what a shard is called in decisions and reports: its file's name, and which part of it."""
    name = shard.url.rstrip("/").rpartition("/")[2]
    return name if shard.part is None else f"{name}[{shard.part[0]}:{shard.part[1]}]"
