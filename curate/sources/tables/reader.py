"""What a table's format provides: its rows in pieces, and which exceptions mean damage."""

from __future__ import annotations

import lzma
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import StorageError

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, EOFError, zlib.error, lzma.LZMAError)
"""What pyarrow raises for a damaged file (the third for names and messages with bytes of the file in them), and gzip."""


_SAVED = re.compile(r"data-\d+-of-\d+")


TableRows = tuple[int, pa.RecordBatch]
"""The number of the first row, and consecutive rows with the file's own columns."""


class Reader(Protocol):
    """Reads one file format."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    def scalars(self) -> list[str]:
        """Return the names of the columns that hold one short value a row (see curate.sources.kept)."""

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column (one will do where they are no strings); None where there are none."""

    def several(self, name: str) -> bool:
        """Return whether the rows of a column hold lists of images."""

    def skips(self, at: int, row: int) -> bool:
        """Return whether `pieces` from `row` on reads less than going on at row `at`, which is smaller."""

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield all rows with `columns`; pieces before the one with row `first` may be left out."""

    def guessed(self) -> dict[str, str]:
        """Return the likely columns by role where names say nothing; {} where the file names its columns."""

    def bad(self) -> int:
        """Return how many rows had to be skipped; known after `pieces` has ended."""


def stem(shard: Shard) -> str:
    """Return what the keys of records begin with that have none of their own: the name of the file, and where the part begins."""
    name = posixpath.splitext(posixpath.basename(shard.url))[0]
    if _SAVED.fullmatch(name):  # HF datasets call the files of each split alike; the folder has the split's name
        name = f"{posixpath.basename(posixpath.dirname(shard.url))}/{name}"
    return name if shard.part is None else f"{name}/{shard.part[0]}"


def is_damage(error: Exception) -> bool:
    """Return whether one of DAMAGE means a damaged file; else the system or a store failed to read it."""
    system = isinstance(error, StorageError | FileNotFoundError | PermissionError)
    return not (system or (isinstance(error, OSError) and error.errno is not None))


def broken(url: str, error: Exception) -> Exception:
    """Return the ShardBreak of a damaged table; an error of the system or of a store is returned as it is."""
    return ShardBreak(f"{url}: {' '.join(str(error).split())[:300]}") if is_damage(error) else error
