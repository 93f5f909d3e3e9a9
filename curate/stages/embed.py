"""How near an image is to the evaluation sets: by an embedding (cosine), or by perceptual hash (Hamming distance).

The search is exact: every row against every signature, in blocks of a memory-mapped file that all workers of a machine
share. How the signatures are made is for curate.evalsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.contracts import Batch, ModelKind, Needs, Stage
from curate.errors import InputError
from curate.facts import schema
from curate.storage import at_hand

if TYPE_CHECKING:
    from curate.models.protocols import Floats, Pixels

DEFAULT_THRESHOLD = 0.89
"""Cosine of efficientnet-lite0 signatures from which an image counts as a near-duplicate.

Measured: all of the 145 copies in a 6,000-pair pool are found (lowest 0.903); of copies of the 61 ImageNet photos with
sides of 240 pixels or more 100% after JPEG q30, half size, grey, flip, 98% after brightness 1.25 and small text, 97% of
90% crops, 67% with a border. Of unrelated photos 0.11% are dropped against 3,076 images, none against 76; at 0.88 0.19%,
at 0.85 0.52%. What is dropped wrongly is mostly the same scene taken twice.
"""

FILES = ("signatures.npy", "images.parquet")
"""Of a folder of signatures (see curate.evalsets): what is needed of it to search."""

PIXELS_SHAPE = (256, 256, 3)
_BLOCK = 8192  # signatures that are compared at once: 40 MB of float32
_QUERIES = 64  # rows of every product: BLAS may add in another order for another size
_TIE = 1e-5  # cosines nearer than this are equal: the lowest index wins, however the sums were rounded


@dataclass(frozen=True)
class EvalSetRef:
    """An evaluation set: what it is called, what is in it (`digest`), and where its signatures are on this machine.

    `digest` is empty until `curate.evalsets.signatures` (or a stage's `resolved`) has read the set. Where the set and
    its signatures lie is no part of its identity.
    """

    name: str
    digest: str = ""
    path: str = field(default="", compare=False, metadata={"identity": False})
    folder: str = field(default="", compare=False, metadata={"identity": False})
    images: int = field(default=0, compare=False, metadata={"identity": False})
    unreadable: tuple[str, ...] = field(default=(), compare=False, metadata={"identity": False})


def unresolved(paths: tuple[str, ...]) -> tuple[EvalSetRef, ...]:
    """Return references to sets that nobody has looked at yet: enough to plan with, not to search in."""
    return tuple(EvalSetRef(Path(path).name, path=path) for path in paths)


@dataclass(frozen=True)
class EvalSimilarityStage(Stage):
    """Provides eval_similarity, the largest cosine of `pixels` to an image of the sets, and eval_match, which it is."""

    embedder: str = "efficientnet-lite0"
    sets: tuple[EvalSetRef, ...] = ()

    name: ClassVar[str] = "eval_similarity"
    version: ClassVar[int] = 1
    reads = ("pixels",)
    provides = schema(("eval_similarity", "eval_match"))
    needs = Needs(memory=2 << 30)

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the embedder, if there is anything to compare with."""
        return (("embedder", self.embedder),) if self.sets else ()

    def resolved(self, cache: Path) -> EvalSimilarityStage:
        """Return the stage with its sets read, from `cache` where they were before. Raises InputError, ModelError."""
        from curate.evalsets import signatures

        refs = tuple(signatures(ref.path, "embedding", self.embedder, cache) for ref in self.sets)
        return replace(self, sets=refs)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with both facts appended; null where there are no pixels. Raises ModelError."""
        from curate.models import load_embedder

        pixels, rows = pixels_of(batch)
        vectors = load_embedder(self.embedder).embed(pixels) if len(rows) and self.sets else None
        if vectors is None:
            return _append(batch, self.provides, rows[:0], ([], []))
        values, found = nearest_vectors(vectors, self.sets)
        names = _names(self.sets)
        return _append(batch, self.provides, rows, (values.tolist(), [names[index] for index in found]))


@dataclass(frozen=True)
class EvalDistanceStage(Stage):
    """Provides eval_distance, the smallest Hamming distance of `phash` to an image of the sets, and eval_match."""

    sets: tuple[EvalSetRef, ...] = ()

    name: ClassVar[str] = "eval_distance"
    version: ClassVar[int] = 1
    reads = ("phash",)
    provides = schema(("eval_distance", "eval_match"))
    needs = Needs()

    def resolved(self, cache: Path) -> EvalDistanceStage:
        """Return the stage with its sets read, from `cache` where they were before. Raises InputError."""
        from curate.evalsets import signatures

        return replace(self, sets=tuple(signatures(ref.path, "hash", "", cache) for ref in self.sets))

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with both facts appended; null where there is no hash."""
        hashes, rows = hashes_of(batch)
        if not len(rows) or not self.sets:
            return _append(batch, self.provides, rows[:0], ([], []))
        distances, found = nearest_hashes(hashes, np.concatenate([_signatures(ref.folder) for ref in self.sets]))
        names = _names(self.sets)
        return _append(batch, self.provides, rows, (distances.tolist(), [names[index] for index in found]))


def pixels_of(batch: Batch) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return the pictures of column `pixels`, uint8 [n, 256, 256, 3], and their rows; nulls have none."""
    column = batch.column("pixels")
    rows = _valid(column)
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.empty((0, *PIXELS_SHAPE), np.uint8), rows[:0]
    size = PIXELS_SHAPE[0] * PIXELS_SHAPE[1] * PIXELS_SHAPE[2]
    flat = np.frombuffer(data, np.uint8, len(column) * size, column.offset * size)
    pictures = flat.reshape(len(column), *PIXELS_SHAPE)
    return (pictures if len(rows) == len(column) else pictures[rows]), rows


def hashes_of(batch: Batch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hashes of column `phash` that are not null, uint64 [n], and their rows."""
    column = batch.column("phash")
    return column.drop_null().to_numpy(zero_copy_only=False), _valid(column)


def nearest_vectors(vectors: Floats, sets: tuple[EvalSetRef, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return each row's largest cosine to the sets, float32 [n], and the index over all sets that has it, [n]."""
    return _in_queries(vectors, lambda queries: _search(queries, sets))


def nearest_hashes(
    hashes: npt.NDArray[np.uint64], listed: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Return the smallest Hamming distance to `listed` (not empty), int16 [n], and the first index that has it, [n]."""
    best = np.full(len(hashes), 65, np.int16)
    found = np.zeros(len(hashes), np.int64)
    for start in range(0, len(listed), _BLOCK):
        distances = np.bitwise_count(hashes[:, None] ^ listed[None, start : start + _BLOCK])
        nearest = distances.argmin(axis=1)
        values = distances[np.arange(len(hashes)), nearest].astype(np.int16)
        closer = values < best
        best[closer], found[closer] = values[closer], nearest[closer] + start
    return best, found


def _in_queries(
    vectors: Floats, search: Callable[[Floats], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    values, found = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _QUERIES):
        queries = vectors[start : start + _QUERIES]
        rows = len(queries)
        if rows < _QUERIES:
            queries = np.concatenate([queries, np.zeros((_QUERIES - rows, queries.shape[1]), np.float32)])
        block = search(queries)
        values[start : start + rows], found[start : start + rows] = block[0][:rows], block[1][:rows]
    return values, found


def _search(queries: Floats, sets: tuple[EvalSetRef, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Search all sets for _QUERIES rows: find by a float32 product, then state the winner's cosine from float64."""
    every = np.arange(len(queries))
    best, winners = np.full(len(queries), -2.0), np.zeros_like(queries)
    found = np.zeros(len(queries), np.int64)
    offset = 0
    for ref in sets:
        matrix = _signatures(ref.folder)
        for start in range(0, len(matrix), _BLOCK):
            block = matrix[start : start + _BLOCK]
            cosines = queries @ block.T
            first = (cosines >= cosines.max(axis=1, keepdims=True) - _TIE).argmax(axis=1)
            closer = cosines[every, first] > best + _TIE
            best[closer] = cosines[closer, first[closer]]
            winners[closer] = block[first[closer]]
            found[closer] = first[closer] + start + offset
        offset += len(matrix)
    exact = (queries.astype(np.float64) * winners).sum(axis=1)
    return np.clip(exact, -1, 1).astype(np.float32), found


@lru_cache(maxsize=64)
def _signatures(folder: str) -> npt.NDArray[np.float32] | npt.NDArray[np.uint64]:
    """Map the signatures of a set into memory: float32 [n, dim], or uint64 [n] for hashes."""
    if not folder:
        raise InputError("an evaluation set was used before its images were read")
    array: npt.NDArray[np.float32] = np.load(at_hand(folder, FILES) / "signatures.npy", mmap_mode="r")
    return array


@lru_cache(maxsize=8)
def _names(sets: tuple[EvalSetRef, ...]) -> list[str]:
    """Return set/file of every signature, in order."""
    from pyarrow import parquet

    names: list[str] = []
    for ref in sets:
        column = parquet.read_table(at_hand(ref.folder, FILES) / "images.parquet", columns=["name"]).column("name")
        names += [f"{ref.name}/{name}" for name in column.to_pylist()]
    return names


def _valid(column: pa.Array) -> npt.NDArray[np.int64]:
    rows: npt.NDArray[np.int64] = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    return rows


def _append(
    batch: Batch, provides: pa.Schema, rows: npt.NDArray[np.int64], values: tuple[list[float] | list[int], list[str]]
) -> Batch:
    """Append one column a field of `provides`: `values` at `rows`, null elsewhere."""
    for declared, answers in zip(provides, values, strict=True):
        column: list[float | str | None] = [None] * batch.num_rows
        for row, answer in zip(rows.tolist(), list[float | str](answers), strict=True):
            column[row] = answer
        batch = batch.append_column(declared, pa.array(column, declared.type))
    return batch
