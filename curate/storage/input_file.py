"""A file of the input, on this disk or behind a URL: read whole, or only in parts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, cast

from curate.storage.paths import is_local, staged
from curate.storage.ranges import RANGE, Place, RangeFile, read_pieces


class InputFile:
    """A file to read while its block lasts. A remote one is copied to this disk only where its path is needed.

    `size` is in bytes, where it is known. Every method may raise OSError.
    """

    def __init__(self, url: str, size: int | None = None) -> None:
        self.url, self._size = url, size
        self._path = url if is_local(url) else None
        self._held = ExitStack()

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def path(self) -> str:
        """Return a path of this disk with the whole file; a remote one is copied on the first call."""
        if self._path is None:
            self._path = self._held.enter_context(staged(self.url))
        return self._path

    def source(self) -> str | RangeFile:
        """Return what pyarrow reads parts of the file from: its path, or a file object for one that was not copied."""
        return RangeFile(self.url, self._size) if self._path is None else self._path

    def stream(self) -> BinaryIO:
        """Open the file for reading from its start, without a copy."""
        if self._path is None:
            return cast(BinaryIO, io.BufferedReader(RangeFile(self.url, self._size), 1 << 20))
        return open(self._path, "rb")

    def pieces(self, places: Iterable[Place | None]) -> Iterator[bytes | None]:
        """Yield pieces of the file in the order of `places`, which should ascend; None where there is no such piece.

        A remote file that one request can read is copied: what is needed of it again costs nothing then.
        """
        if self._size is not None and self._size <= RANGE:
            self.path()
        if self._path is None:
            yield from read_pieces(self.url, places)
            return
        with open(self._path, "rb", buffering=0) as file:
            for place in places:
                yield None if place is None else _piece(file, *place)


def _piece(file: io.FileIO, offset: int, size: int) -> bytes | None:
    file.seek(offset)
    data = file.read(size)
    return data if len(data) == size else None
