"""Files that are packed by gzip, bzip2, xz or zstd, read as a stream."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, cast

import pyarrow as pa

_UNPACKED: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: io.BufferedReader(cast(Any, pa.input_stream(file, compression="zstd"))),
}


def with_packed(*suffixes: str) -> tuple[str, ...]:
    """Return suffixes, each also with those of packed files.

    >>> with_packed(".csv")
    ('.csv', '.csv.gz', '.csv.bz2', '.csv.xz', '.csv.zst')
    """
    return tuple(suffix + packed for suffix in suffixes for packed in ("", *_UNPACKED))


def ends_with(url: str, suffix: str) -> bool:
    """Return whether the name of a file has a suffix, packed or not."""
    return url.lower().endswith(with_packed(suffix))


def is_packed(url: str) -> bool:
    """Return whether a file is packed, by its name."""
    return url.lower().endswith(tuple(_UNPACKED))


@contextmanager
def unpacked(url: str, opening: Callable[[], BinaryIO]) -> Iterator[BinaryIO]:
    """Open a file; reading what is damaged raises OSError, EOFError, zlib.error, LZMAError or ArrowException."""
    unpack = next((unpack for suffix, unpack in _UNPACKED.items() if url.lower().endswith(suffix)), nullcontext)
    with opening() as packed, unpack(packed) as file:
        yield file
