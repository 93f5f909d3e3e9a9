"""Exact nearest neighbours among the signatures of evaluation sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.core.errors import InputError
from curate.storage.local_copies import at_hand

if TYPE_CHECKING:
    from curate.models.protocols import Floats
from curate.stages.evalsets import FILES, EvalSetRef

_BLOCK = 8192  # signatures that are compared at once: 40 MB of float32


_QUERIES = 64  # rows of every product: BLAS may add in another order for another size


_TIE = 1e-5  # cosines nearer than this are equal: the lowest index wins, however the sums were rounded


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
