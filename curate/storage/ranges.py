"""Byte ranges of remote files: neighbours in one request, several requests at once, and not more in memory than is bounded."""

from __future__ import annotations

import errno
import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from curate.storage.paths import filesystem
from curate.storage.retry import tried

GAP = 256 << 10
"""Bytes between two pieces that are read and thrown away: a store takes longer to answer another request."""

RANGE = 8 << 20
"""Bytes of a request for several pieces; a larger piece is a request of its own."""

AT_ONCE = 8
"""Requests of one reader at the same time."""

AHEAD = AT_ONCE * RANGE
"""Bytes that are requested before their turn."""

Place = tuple[int, int]
"""Where a piece is in a file: offset and size in bytes."""


@dataclass
class _Run:
    """Pieces that one request reads; None stands for a piece that is nowhere."""

    start: int = 0
    end: int = 0
    pieces: list[Place | None] = field(default_factory=list)

    def takes(self, piece: Place | None) -> bool:
        """Return whether a piece that follows in order belongs to the same request."""
        if piece is None or self.end == self.start:
            return True
        offset, size = piece
        return self.start <= offset <= self.end + GAP and max(self.end, offset + size) - self.start <= RANGE

    def add(self, piece: Place | None) -> None:
        self.pieces.append(piece)
        if piece is not None and piece[1]:
            offset, size = piece
            self.start = offset if self.end == self.start else self.start
            self.end = max(self.end, offset + size)

    def split(self, data: bytes) -> Iterator[bytes | None]:
        """Yield the pieces out of the bytes of the request; None for one that the file is too short for."""
        for piece in self.pieces:
            if piece is None:
                yield None
                continue
            begin = piece[0] - self.start if piece[1] else 0
            found = data[begin : begin + piece[1]]
            yield found if len(found) == piece[1] else None


def read_pieces(url: str, places: Iterable[Place | None]) -> Iterator[bytes | None]:
    """Yield pieces of a remote file in the order of `places`, which should ascend; None where there is no such piece.

    At most AHEAD bytes, or one piece that is larger, are in memory beside the request whose pieces are being taken.
    Raises FileNotFoundError, StorageError.
    """
    fs, path = filesystem(url)
    threads = ThreadPoolExecutor(AT_ONCE)
    waiting: deque[tuple[_Run, Future[bytes]]] = deque()
    ahead = 0
    try:
        for run in _runs(places):
            size = run.end - run.start
            while waiting and (len(waiting) == AT_ONCE or ahead + size > AHEAD):
                first, data = waiting.popleft()
                ahead -= first.end - first.start
                yield from first.split(data.result())
            waiting.append((run, threads.submit(read_range, fs, path, run.start, run.end)))
            ahead += size
        while waiting:
            first, data = waiting.popleft()
            yield from first.split(data.result())
    finally:
        threads.shutdown(cancel_futures=True)


def _runs(places: Iterable[Place | None]) -> Iterator[_Run]:
    run = _Run()
    for place in places:
        if not run.takes(place):
            yield run
            run = _Run()
        run.add(place)
    if run.pieces:
        yield run


def read_range(fs: Any, path: str, start: int, end: int) -> bytes:
    """Return bytes `start` to `end` of a file, fewer where it ends before. Raises FileNotFoundError, StorageError."""
    if start == end:
        return b""

    def ask() -> bytes:
        try:
            data = bytes(fs.cat_file(path, start=start, end=end))
        except OSError as error:
            if error.errno == errno.EINVAL and "range" in str(error).lower():  # what S3 answers past the end of the file
                return b""
            raise
        return data if len(data) <= end - start else data[start:end]  # a web server that knows no ranges sends the whole file

    return tried(ask)


class RangeFile(io.RawIOBase):
    """A remote file to read at random without a copy: each read is a request, a long one is several at once.

    There is no buffer and no read-ahead. Raises FileNotFoundError, StorageError.
    """

    def __init__(self, url: str, size: int | None = None) -> None:
        super().__init__()
        self._fs, self._path = filesystem(url)
        self._at = 0
        self._size = self._current_size() if size is None else size

    def _current_size(self) -> int:
        def ask() -> int:
            self._fs.invalidate_cache(self._path)
            return int(self._fs.info(self._path)["size"])

        return tried(ask)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes were read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, fewer at the end of the file."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        starts = range(self._at, end, RANGE)
        if len(starts) > 1:
            with ThreadPoolExecutor(AT_ONCE) as threads:
                parts = threads.map(lambda start: read_range(self._fs, self._path, start, min(start + RANGE, end)), starts)
                data = b"".join(parts)
        else:
            data = read_range(self._fs, self._path, self._at, max(self._at, end))
        self._at += len(data)
        return data
