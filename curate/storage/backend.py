"""Where an output is: a folder on this disk, or on anything that fsspec reaches. Names are relative, with slashes.

A file appears whole or not at all; on an object store that is one PUT (or a multipart upload's end). Nothing here knows what
a file means: commit marks, facts and the lease are curate.storage.store's.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from curate.core.errors import DiskFull
from curate.storage.paths import at_once, filesystem, is_local, without_scheme
from curate.storage.retry import tried


class Found(NamedTuple):
    """A file of a listing: its name in its folder, and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Storage(ABC):
    """A folder at `root` (an absolute path or a URL). Picklable. Every method may raise OSError."""

    root: str

    @property
    def own(self) -> Storage:
        """Return the storage without folders that are elsewhere (see curate.storage.shared_facts)."""
        return self

    def parts(self) -> tuple[Storage, ...]:
        """Return the storages that it is made of."""
        return (self,)

    def url(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.root}/{name}"

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write `data` to a file, replacing it as a whole."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Create a file with `data` unless there is one, and return whether it was created: of several that try, one succeeds."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None where there is none."""

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path to write to; the file appears when the block ends, and nothing of it when it raises."""

    @abstractmethod
    def reading(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path that holds a file for the time of the block. Raises FileNotFoundError."""

    @abstractmethod
    def listing(self, folder: str) -> Iterator[Found]:
        """Yield the files directly in a folder, in no order; none where there is no such folder."""

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files; missing ones are ignored."""

    @abstractmethod
    def move(self, old: str, new: str) -> None:
        """Give a file another name, replacing what has it; a missing one is ignored. Object stores copy it."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its content; a missing one is ignored."""


class Disk(Storage):
    """A folder of a local (or mounted) file system."""

    def read(self, name: str) -> bytes | None:
        try:
            return Path(self.root, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as path:
            path.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        path = Path(self.root, name)
        _made(path.parent)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        partial.write_bytes(data)
        try:
            os.link(partial, path)  # unlike opening it: whole, or not there
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    def size(self, name: str) -> int | None:
        try:
            return Path(self.root, name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        path = Path(self.root, name)
        _made(path.parent)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            yield partial
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no space left for {path}") from error
            raise

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = Path(self.root, name)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        yield path

    def listing(self, folder: str) -> Iterator[Found]:
        try:
            with os.scandir(Path(self.root, folder)) as entries:
                for entry in entries:
                    if entry.is_file():
                        yield Found(entry.name, entry.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return

    def folders(self, folder: str) -> list[str]:
        try:
            with os.scandir(Path(self.root, folder)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            Path(self.root, name).unlink(missing_ok=True)

    def move(self, old: str, new: str) -> None:
        with suppress(FileNotFoundError):
            os.replace(Path(self.root, old), Path(self.root, new))

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(Path(self.root, folder), ignore_errors=True)


class Remote(Storage):
    """A folder behind fsspec. Requests that fail for the moment (500s, time-outs) are retried with growing pauses."""

    @cached_property
    def _place(self) -> tuple[Any, str]:
        return filesystem(self.root)

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def _path(self, name: str) -> str:
        return f"{self._place[1]}/{name}" if name else self._place[1]

    def read(self, name: str) -> bytes | None:
        fs = self._place[0]
        try:
            return bytes(tried(lambda: fs.cat_file(self._path(name), **at_once(fs))))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        fs, path = self._place[0], self._path(name)
        tried(lambda: fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        fs, path = self._place[0], self._path(name)
        try:
            tried(lambda: fs.pipe_file(path, data, mode="create"))
        except FileExistsError:  # it may be ours, from an attempt that got no response
            return self.read(name) == data
        return True

    def size(self, name: str) -> int | None:
        fs, path = self._place[0], self._path(name)

        try:
            return tried(lambda: int(fs.info(path)["size"]))
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory(prefix="curate-") as folder:
            path = Path(folder) / name.rpartition("/")[2]
            yield path
            fs, target = self._place[0], self._path(name)
            tried(lambda: fs.put_file(str(path), target))

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory(prefix="curate-") as folder:
            path = Path(folder) / name.rpartition("/")[2]
            fs = self._place[0]
            tried(lambda: fs.get_file(self._path(name), str(path)))
            yield path

    def listing(self, folder: str) -> Iterator[Found]:
        for info in self._listed(folder):
            if info["type"] == "file":
                yield Found(_last(info["name"]), int(info["size"] or 0))

    def folders(self, folder: str) -> list[str]:
        return sorted(_last(info["name"]) for info in self._listed(folder) if info["type"] == "directory")

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        fs, path = self._place[0], self._path(folder)

        def ask() -> list[dict[str, Any]]:
            return [info for info in fs.ls(path, detail=True) if info["name"].rstrip("/") != path.rstrip("/")]

        try:
            return tried(ask)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, names: Iterable[str]) -> None:
        fs, paths = self._place[0], [self._path(name) for name in names]
        if paths:
            tried(lambda: _removed(fs, paths))

    def move(self, old: str, new: str) -> None:
        fs, source, target = self._place[0], self._path(old), self._path(new)
        if self.size(old) is not None:
            tried(lambda: fs.copy(source, target))
            self.remove([old])

    def remove_folder(self, folder: str) -> None:
        fs, path = self._place[0], self._path(folder)
        tried(lambda: _removed(fs, fs.find(path)))


def storage(url: str | os.PathLike[str]) -> Storage:
    """Return the storage at a path or URL. Raises InputError when a URL's backend is not installed."""
    text = without_scheme(os.fspath(url))
    if is_local(text):
        return Disk(os.path.abspath(text))
    filesystem(text)
    return Remote(text.rstrip("/"))


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {folder}") from error
        raise


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _removed(fs: Any, paths: list[str]) -> None:
    try:
        if paths:
            fs.rm(paths)
    except FileNotFoundError:  # one of them is gone already: then one by one
        for path in paths:
            if fs.exists(path):
                fs.rm_file(path)
