"""Remote files for DuckDB, which get exactly the ranges that it reads.

DuckDB reads one file with several threads at once, and the file objects of fsspec have one position and one buffer for all
of them: then bytes come from the wrong place. They also read ahead, those of s3fs by 50 MB: to read one column, 800 MB of
a file of 40 MB. So here a file has no buffer, and each thread its own position.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fsspec import AbstractFileSystem

from curate.storage.paths import filesystem

_REMEMBERED = 1 << 16  # files whose size is asked for once
_NEVER = datetime(2000, 1, 1, tzinfo=UTC)


class RangeFile:
    """A file that several threads read: each has its own position."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._mine = threading.local()

    def seek(self, position: int) -> int:
        """Set the position of this thread."""
        self._mine.position = position
        return position

    def read(self, size: int) -> bytes:
        """Return as many bytes from the position of this thread on."""
        start: int = self._mine.position
        data = bytes(self._filesystem.cat_file(self._path, start=start, end=start + size))
        self._mine.position = start + len(data)
        return data

    def close(self) -> None:
        """Do nothing: there is nothing open."""


class Ranges(AbstractFileSystem):  # type: ignore[misc]
    """The files of the store behind `url`, which nobody changes meanwhile. Names are taken literally: none is a pattern."""

    cachable = False

    def __init__(self, url: str) -> None:
        super().__init__()
        self._filesystem = filesystem(url)[0]
        self._described = lru_cache(_REMEMBERED)(self._filesystem.info)
        self.protocol = url.partition("://")[0]  # s3a stays s3a: DuckDB would name files by the first of several

    def open(self, path: str, mode: str = "rb") -> RangeFile:
        """Open a file to read."""
        return RangeFile(self._filesystem, path)

    def info(self, path: str) -> dict[str, Any]:
        """Return what the other filesystem knows, asked once: DuckDB asks at every query."""
        return dict(self._described(path))

    def glob(self, path: str) -> list[str]:
        """Return the one file of that name, to which DuckDB adds the protocol again."""
        return [path.partition("://")[2]]

    def modified(self, path: str) -> datetime:
        """Return a time that never changes: DuckDB keeps what it has read as long as that is so."""
        return _NEVER
