"""What one shard contributes to a corpus count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch, CorpusCount
from curate.counts.keys import image_key, pair_key
from curate.stages.text import TextStage, Tokens
from curate.storage.parquet import ParquetWriter

VERSION = 2


_RUN = 4_000_000  # keys held by a builder before they are reduced and written: bounds its memory


def partial_name(count: CorpusCount) -> str:
    """Return what the partial counts of a corpus count are stored under: thresholds and floors have no part in it."""
    kind = {"texts_per_image": "pairs", "images_per_text": "pairs"}.get(count.kind, count.kind)
    return f"partial_{kind}-{'any' if kind == 'ngrams' else count.identity}-v{VERSION}.{TextStage.version}"


class Partial:
    """Collects one shard's contribution to a count and writes it in sorted, reduced runs."""

    def __init__(self, count: CorpusCount, path: Path) -> None:
        self._count = count
        kinds = {"ngrams": ("key", "n"), "first_pair": ("key", "row"), "first_image": ("key", "row")}
        self._names = kinds.get(count.kind, ("image", "text"))
        second = pa.uint64() if self._names[1] == "text" else pa.int64()
        self._writer = ParquetWriter(path, pa.schema([(self._names[0], pa.uint64()), (self._names[1], second)]), "lz4")
        self._held: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._size = 0

    def add(self, batch: Batch, words: Tokens) -> None:
        """Add a batch of facts (columns row, url_key, content_key, text_key) and the words of its texts."""
        if self._count.kind == "ngrams":
            bigrams, inside = words.bigrams()
            keys = np.concatenate([words.words, bigrams[inside]])
            self._hold(keys, np.ones(0, np.int64))
            return
        if self._count.kind in ("first_pair", "first_image"):
            left, right = pair_key(batch, self._count), batch["row"]
        else:
            left, right = image_key(batch, self._count.identity), batch["text_key"]
        both = left.is_valid().to_numpy(zero_copy_only=False) & right.is_valid().to_numpy(zero_copy_only=False)
        self._hold(left.fill_null(0).to_numpy()[both], right.fill_null(0).to_numpy()[both])

    def _hold(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        self._held.append((left, right))
        self._size += len(left)
        if self._size >= _RUN:
            self._flush()

    def _flush(self) -> None:
        left = np.concatenate([item[0] for item in self._held]) if self._held else np.empty(0, np.uint64)
        if self._count.kind == "ngrams":
            left, right = np.unique(left, return_counts=True)
        else:
            right = np.concatenate([item[1] for item in self._held]) if self._held else np.empty(0, np.uint64)
            left, right = _distinct(left, right, first=self._names[1] == "row")
        self._writer.write(pa.table({self._names[0]: left, self._names[1]: right}, schema=self._writer.schema))
        self._held, self._size = [], 0

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()


def _distinct(left: npt.NDArray[Any], right: npt.NDArray[Any], *, first: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the distinct pairs, sorted; for `first` each left with its two smallest rights (two say: not the only one)."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    new = np.ones(len(left), np.bool_)
    new[1:] = left[1:] != left[:-1]
    if first:
        new[1:] |= new[:-1]
    else:
        new[1:] |= right[1:] != right[:-1]
    return left[new], right[new]
