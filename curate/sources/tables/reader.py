"""What a table's format provides: its rows in pieces, and which exceptions mean damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

import pyarrow as pa

from curate.core.contracts import ShardBreak

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; the last for names and messages with bytes of the file in them."""


TableRows = tuple[int, pa.RecordBatch]
"""The number of the first row, and consecutive rows with the file's own columns."""


class Reader(Protocol):
    """Reads one file format."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    seeks: ClassVar[bool]  # whether it can start in the middle of the file

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield all rows with `columns`; pieces before the one with row `first` may be left out."""

    def bad(self) -> int:
        """Return how many rows had to be skipped; known after `pieces` has ended."""


def broken(url: str, error: Exception) -> Exception:
    """Return the ShardBreak of a damaged table; an error of the operating system is returned as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ShardBreak(f"{url}: {' '.join(str(error).split())[:300]}")
