"""Files in the memory of this process behind fsspec, with a record of every request for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Asked(NamedTuple):
    """A request: its kind, of which file, from which byte (None: the whole file), and how many bytes were sent."""

    kind: str
    path: str
    start: int | None
    size: int


class Asking(MemoryFileSystem):
    """A store that remembers what it was asked for."""

    protocol = "asking"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[list[Asked]] = []
    lock: ClassVar[Any] = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("asking://", "memory://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"asking://{name.lstrip('/')}"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        data = bytes(super().cat_file(path, start, end, **options))
        self.note("GET", path, start, len(data))
        return data

    def get_file(self, rpath: str, lpath: Any, **options: Any) -> None:
        super().get_file(rpath, lpath, **options)
        self.note("GET", rpath, None, self.size(rpath))

    def info(self, path: str, **options: Any) -> Any:
        found = super().info(path, **options)
        self.note("HEAD", path, None, 0)
        return found

    def note(self, kind: str, path: str, start: int | None, size: int) -> None:
        """Remember a request."""
        with self.lock:
            self.asked.append(Asked(kind, str(self._strip_protocol(path)), start, size))


@contextmanager
def asking() -> Iterator[Asking]:
    """Give an empty store whose URLs begin with asking://."""
    fsspec.register_implementation("asking", Asking, clobber=True)
    fs = fsspec.filesystem("asking")
    Asking.store.clear()
    Asking.asked.clear()
    yield fs
    Asking.store.clear()


def gets(fs: Asking) -> list[Asked]:
    """Return the requests for bytes so far, and forget them."""
    found = [asked for asked in fs.asked if asked.kind == "GET"]
    fs.asked.clear()
    return found
