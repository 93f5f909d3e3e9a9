"""What a table's format gives: chunks of rows, and what counts as damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

import pyarrow as pa

from curate.core.contracts import ShardBreak

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; the last for names and messages with bytes of the file in them."""


Chunk = tuple[int, pa.RecordBatch]
"""The number of its first row, and rows as the file has them."""


class Reader(Protocol):
    """Reads one file format."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    seeks: ClassVar[bool]  # whether it can begin elsewhere than at the start

    def chunks(self, columns: list[str], first: int) -> Iterator[Chunk]:
        """Yield rows with `columns` to the end; chunks before the one that holds row `first` may be left out."""

    def bad(self) -> int:
        """Return how many rows had to be skipped; known after `chunks` has ended."""


def broken(url: str, error: Exception) -> Exception:
    """Return the ShardBreak of a damaged table; an error of the operating system as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ShardBreak(f"{url}: {' '.join(str(error).split())[:300]}")
