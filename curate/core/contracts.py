"""The interfaces of filters, stages and runners (of corpus counts: curate.core.counting).

What a source promises is in curate.sources.source.

Inside a pass columns are added and rows are never removed by anyone but the engine: it hands a stage only the rows
that are still alive and puts the answers back where they belong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import pyarrow as pa

from curate.core.counting import CorpusCount as CorpusCount
from curate.core.counting import Counting
from curate.core.facts import Fact, declare, schema_of

Batch: TypeAlias = pa.RecordBatch

IMAGE_ROWS = 256
"""Records whose images are in memory at once. Batches are cut there, so that results do not depend on the number of workers."""

ROW_GROUP = 8192
"""Rows of a row group in every parquet file that is written, and of a batch of facts that is judged at once."""


@dataclass(frozen=True)
class Needs:
    """What one task needs: cores, GPUs (may be a fraction), and whether it loads models.

    Memory is not part of it: no engine but Ray could reserve it, and how much a shard takes is only known afterwards.
    """

    cpus: float = 1
    gpus: float = 0
    models: bool = False  # keep its worker for the next item, so that weights are loaded once per worker


@dataclass(frozen=True)
class Shard:
    """One input file, or a part of one: the unit of work, of commit and of resume.

    `index` is its position in the whole input (it orders records), `part` the source's own way to name a piece of a
    file (row groups of a parquet file, bytes of a csv, files of a folder). `fingerprint` changes when the content does, or how
    it is read: xxh3 of url, size, modification time or etag, part, columns and form, as 16 hex digits.
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
    form: str = ""  # how the file is written, where its source found that out at listing (the dialect of a csv): few an input


RECORD_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # position in the shard, from 0, without gaps
        pa.field("key", pa.string(), nullable=False),  # the record's own key, as found (undecodable bytes replaced), or its first
        pa.field("url", pa.string()),  # where the image came from, where the input says so
        pa.field("text", pa.string()),  # the web text, the first of several; null when there is none
        pa.field("error", pa.string()),  # what is wrong with the record itself: see curate.sources.ERRORS
        pa.field("image", pa.binary()),  # the bytes as found; null when there are none
        pa.field("offset", pa.int64()),  # where the image's bytes stand in the file, where the source can seek
        pa.field("given_sha256", pa.string()),  # what the input says that a fetched image must be, hex
        pa.field("earlier_texts", pa.string()),  # of a sample of ours: JSON list of its texts (source, text, scores); else null
        pa.field("more_texts", pa.list_(pa.string())),  # the web texts after the first, no two equal; null where there is one
        pa.field("input", pa.string()),  # further scalars of the input: a JSON object; null where there are none
    ]
)


Precision: TypeAlias = Literal["bfloat16", "float32"]
"""The number format of a large model."""

ModelKind: TypeAlias = Literal["captioner", "matcher", "text_embedder", "embedder", "classifier"]
"""The task of a model: each kind has a protocol in curate.models.protocols."""


class ShardBreak(Exception):
    """A shard that cannot be read past some point; the records before it are kept. The message says what and where."""


IMAGE_VIEWS = ("pixels", "pictures")
"""Columns of decoded images, which exist while rows are in memory and are never stored. `pixels` is 256 x 256, `pictures` has
the side that the stage's model reads (its method `side`); both are fixed_size_binary(side * side * 3), RGB, the whole image
squashed to a square, null where it does not decode."""


class Stage(ABC):
    """Provides facts. A frozen, picklable dataclass; its fields and `version` are its identity in the fact store.

    Models are loaded on the first call in a process and kept (see curate.models). Called with living rows, returns the
    same rows with the columns of `facts` appended. A row that it cannot compute is a null.

    A subclass declares `name`, `facts` and `reads`, as class attributes or, where they depend on its parameters, as
    properties; and whichever of the rest differs from the default:

    version   counted up when the same parameters give other facts
    cost      core-seconds a record, for `plan`: an order of magnitude
    needs     what a worker must have; a GPU is used where there is one
    optional  columns that it reads where something in the plan provides them
    anywhere  any recipe may read its facts; otherwise a filter must provide the stage
    stored    its facts are stored; otherwise they are computed for the stages that read them, while rows are in memory
    """

    version: ClassVar[int] = 1
    cost: ClassVar[float] = 1e-3
    needs: ClassVar[Needs] = Needs()
    optional: ClassVar[tuple[str, ...]] = ()
    anywhere: ClassVar[bool] = False
    stored: ClassVar[bool] = True
    decodes: ClassVar[bool] = False  # it is the decoder: what reads IMAGE_VIEWS runs after it

    def __init_subclass__(cls) -> None:
        """Enter the facts of a stage into curate.core.facts. Raises ValueError for a fact that is declared differently."""
        super().__init_subclass__()
        declare(cls.declared_facts(), cls)

    @classmethod
    def declared_facts(cls) -> tuple[Fact, ...]:
        """Return the facts that the class itself declares; none where they depend on the instance."""
        facts: Any = cls.__dict__.get("facts", ())
        return () if hasattr(facts, "__get__") else tuple(facts)

    @classmethod
    def declared_by(cls) -> type[Stage]:
        """Return the class that declares the facts: its code is part of their key. A subclass that computes them otherwise
        declares them again, or has another version."""
        return next(kind for kind in cls.__mro__ if "facts" in kind.__dict__)

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in plans, and in the keys of its facts: no other stage of a plan has the same."""

    @property
    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """The columns that it appends."""

    @property
    def provides(self) -> pa.Schema:
        """Return the Arrow schema of `facts`."""
        return schema_of(self.facts)

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Columns that it needs: facts, `row`, `image` (bytes), or IMAGE_VIEWS."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with the columns of `facts` appended."""

    @property
    def transient(self) -> tuple[str, ...]:
        """Columns of IMAGE_VIEWS that the decoder appends beside its facts."""
        return ()

    def answer(self, batch: Batch, rows: Iterable[int], *columns: Iterable[Any]) -> Batch:
        """Return `batch` with a column appended for each of `facts`: `columns` have the values at `rows`, null elsewhere."""
        places = list(rows)
        for field_, values in zip(self.provides, columns, strict=True):
            column: list[Any] = [None] * batch.num_rows
            for place, value in zip(places, values, strict=True):
                column[place] = value
            batch = batch.append_column(field_, pa.array(column, field_.type))
        return batch

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the models that it loads, each by kind and spec: they are checked before any work."""
        return ()


Pictures: TypeAlias = Literal["shown", "blurred", "hidden"]
"""How a report draws an image: as it is, blurred beyond recognition, or not at all."""


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
    pictures: ClassVar[Pictures] = "shown"  # what a report shows of an image that fails
    per_text: ClassVar[bool] = False  # judges synthetic texts too: its facts are lists, and it is handed a row for each text

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Name the facts that measure needs (see curate.core.facts)."""

    @abstractmethod
    def measure(self, batch: Batch) -> pa.Array:
        """Return the evidence, one value a row of `batch` (which holds at least the facts that `reads` names)."""

    @abstractmethod
    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Judge evidence, without nulls in the answer; the filter decides what a null in the evidence means."""

    def input_fields(self) -> tuple[str, ...]:
        """Name the further fields of the input that it reads of the fact `input`: a run checks that they are there."""
        return ()

    def provider(self) -> Stage | CorpusCount | None:
        """Return the stage or count that this filter's settings define; None where it reads only common facts."""
        return None

    def thresholds(self) -> tuple[float, ...]:
        """Return the thresholds to draw into a histogram of the evidence; empty where it is not a number."""
        return ()

    def answerable(self, floor: int) -> bool:
        """Return whether counts that are recorded from `floor` upward are enough for this filter's verdicts."""
        return True

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about these parameters, shown before a run."""
        return ()

    def check(self) -> None:  # noqa: B027 - most filters have nothing to refuse
        """Raise ValueError when parameters contradict each other; the message is shown with file and line."""


@dataclass(frozen=True)
class Report:
    """The answer of a task for one shard: small, never image bytes."""

    shard: int
    rows: int
    seconds: dict[str, float] = field(default_factory=dict)  # by activity: read, decode, embed, ... for dry-run and the breakdown
    counts: dict[str, int] = field(default_factory=dict)
    error: str | None = None  # the shard is partial (ShardBreak) or failed
    failed: bool = False


T = TypeVar("T")
R = TypeVar("R")


class Runner(Protocol):
    """Runs tasks over items. Knows nothing about what a task does."""

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield the task's answer for every item, or how it died, in any order; a dead worker never stops the others.

        Items are taken as workers become free. A task that needs a GPU sees no other one (CUDA_VISIBLE_DEVICES).
        """

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        """Open a session on the engine's own shuffle; it uses at most `memory` bytes of this process.

        `scratch` is a folder (path or fsspec URL) that every worker can write to; the caller removes it.
        """


@dataclass(frozen=True)
class TaskDied:
    """An item whose task raised, or whose worker died (signal, out of memory), and the reason for a person to read."""

    item: Any
    reason: str
    exitcode: int | None = None
    error: str | None = None  # the name of the exception's class, where the task raised


def task_name(task: Any) -> str:
    """Return the name of a task, which is that of its pass: scan, fetch, judge, pack.

    >>> task_name(sorted)
    'sorted'
    """
    inner = getattr(task, "task", task)  # a task that brings plug-ins along
    return str(getattr(inner, "__name__", type(inner).__name__)).lower()


def item_name(item: Any) -> str:
    """Return what an item of a task is called: a shard by its name, a block by its number.

    >>> item_name(Shard(0, "s3://bucket/00000.tar", "tar", 10240, "")), item_name(7)
    ('00000.tar', '7')
    """
    if isinstance(item, Shard):
        return shard_name(item)
    return f"{type(item).__name__.lower()} {item.index}" if hasattr(item, "index") else str(item)


def shard_name(shard: Shard) -> str:
    """Return what a shard is called in decisions and reports: its file's name, and which part of it."""
    name = shard.url.rstrip("/").rpartition("/")[2]
    return name if shard.part is None else f"{name}[{shard.part[0]}:{shard.part[1]}]"
