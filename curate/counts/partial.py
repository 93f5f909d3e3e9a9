"""The partial counts of one shard: collected while it is scanned, written in sorted, reduced runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch
from curate.core.counting import CorpusCount, Keys
from curate.core.hashing import code_of
from curate.stages.text import FORM, Tokens
from curate.storage.parquet import ParquetWriter

_RUN = 4_000_000  # rows that are held before they are reduced and written: bounds the memory


def partial_name(count: CorpusCount) -> str:
    """Return the provider under which a count's partial counts are stored: the same for all thresholds and floors."""
    code = code_of(type(count))  # of a plug-in: its text counts as its version
    return f"partial_{count.partial}-v{count.version}.{FORM}{'' if code is None else f'-{code[:12]}'}"


class Partial:
    """Collects what one shard contributes to a count."""

    def __init__(self, count: CorpusCount, path: Path) -> None:
        self._count = count
        self._writer = ParquetWriter(path, count.schema, "lz4")
        self._held: list[tuple[Keys, npt.NDArray[Any]]] = []
        self._size = 0

    def add(self, batch: Batch, words: Tokens) -> None:
        """Add a batch of base facts and the words of its texts."""
        keys, other = self._count.contributes(batch, words)
        self._held.append((keys, other))
        self._size += len(keys)
        if self._size >= _RUN:
            self._flush()

    def _flush(self) -> None:
        schema, found = self._writer.schema, self._writer.schema.empty_table()
        if self._held:
            keys, other = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
            found = pa.table(dict(zip(schema.names, self._count.reduce(keys, other), strict=True)), schema)
        self._writer.write(found)
        self._held, self._size = [], 0

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()
