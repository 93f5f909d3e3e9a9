"""What every kind of a file of samples can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class Packed(NamedTuple):
    """A sample as a file holds it."""

    key: str
    extension: str  # of the image, without the dot
    image: bytes
    about: bytes  # key.json, UTF-8
    text: bytes  # key.txt, UTF-8


class SampleWriter(Protocol):
    """Writes one file of samples: the same samples give the same bytes. Leaving it without `close` leaves a torn file."""

    def __enter__(self) -> SampleWriter: ...

    def __exit__(self, *raised: object) -> None: ...

    def add(self, sample: Packed) -> int:
        """Append a sample; return its place, by which a reader finds it: byte of the image in a tar, row in a parquet file."""

    def close(self) -> str:
        """End the file; return its sha256."""


class SampleReader(Protocol):
    """Reads one file of samples, in any order, but fast only in the order of the file. Memory holds a part of it."""

    def __enter__(self) -> SampleReader: ...

    def __exit__(self, *raised: object) -> None: ...

    def image(self, place: int, size: int) -> bytes:
        """Return the image at a place, whose `size` in bytes the index says. Of a damaged file it is something else."""

    def about(self, place: int, size: int) -> bytes:
        """Return key.json of the image at a place."""

    def __iter__(self) -> Iterator[Packed]:
        """Yield all samples in order."""


class Kind(Protocol):
    """A kind of files of samples."""

    @property
    def suffix(self) -> str:
        """How the names of its files end, with the dot."""

    def writer(self, path: Path) -> SampleWriter:
        """Begin a file."""
