"""Files by url, on the local disk or behind fsspec: listing, hostile relative paths, and staging. Knows no record."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from curate.core.errors import CurateError, InputError, StorageError
from curate.storage.retry import tried

_EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hf"}
"""What of this package brings the backend of a protocol."""

T = TypeVar("T")


class Entry(NamedTuple):
    """A file: its url, size in bytes, and a stamp (modification time or etag) that changes with its content."""

    url: str
    size: int
    stamp: str


def is_local(url: str) -> bool:
    """Return whether `url` is a path of the local disk."""
    return "://" not in url and "::" not in url


def without_scheme(url: str) -> str:
    """Return the path of a local url (file://, local://); other urls and paths as they are."""
    return url.removeprefix("file://").removeprefix("local://")


def plain(url: str) -> str:
    """Return an absolute local path for file:// urls and paths; other urls as their filesystem spells them."""
    url = without_scheme(url)
    if is_local(url):
        return os.path.abspath(url)
    fs, path = filesystem(url)
    return str(fs.unstrip_protocol(path))


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `url` and the path in it. Raises InputError when its backend is not installed."""
    from fsspec.core import url_to_fs

    try:
        # a listing that is kept hides what other processes have written since, also from reads by name (s3fs)
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        protocol = url.partition("://")[0]
        extra = f'pip install "curate-image-text[{_EXTRAS[protocol]}]"' if protocol in _EXTRAS else str(error)
        raise InputError(f"{url}: reading {protocol}:// needs a package that is not installed: {extra}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    return fs, path


def at_once(fs: Any) -> dict[str, Any]:
    """Return the arguments of `fs.cat_file` that read a small file in one request.

    s3fs asks for the size first, to read a large one in parts, and where there is none, whether it is a folder.
    """
    return {"max_concurrency": 1} if "s3" in fs.protocol else {}


def tree(url: str) -> list[Entry]:
    """List the files below a folder, sorted by url; hidden ones are left out, links followed, each folder once."""
    if is_local(url):
        return sorted(_walk(url))
    fs, path = filesystem(url)
    found = _answered(lambda: fs.find(path, detail=True))
    below = len(path.rstrip("/")) + 1
    entries = []
    while found:  # a listing of a million files is large: it goes as the entries come
        name, info = found.popitem()
        if "/." not in "/" + name[below:]:
            entries.append(_remote_entry(fs, info))
    return sorted(entries)


def _walk(folder: str) -> Iterator[Entry]:
    """Yield the files below a folder. Each folder is entered once: a linked one after the real ones, a link in a circle not."""
    entered: set[tuple[int, int]] = set()
    waiting, links = [folder], list[str]()
    while waiting or links:
        at = waiting.pop() if waiting else links.pop(links.index(min(links)))
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(at) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    (links if item.is_symlink() else waiting).append(item.path)
                elif item.is_file():
                    yield _local_entry(item.path, item.stat())


def _local_entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, str(status.st_mtime_ns))


def _remote_entry(fs: Any, info: dict[str, Any]) -> Entry:
    known = ("ETag", "etag", "blob_id", "mtime", "LastModified", "updated", "created")
    stamp = next((info[name] for name in known if info.get(name)), "")
    return Entry(str(fs.unstrip_protocol(info["name"])), int(info["size"] or 0), str(stamp))


def find(url: str) -> tuple[list[Entry], bool]:
    """Return the files of an input, and whether it is a folder; globs are expanded, a folder is not listed.

    Raises InputError when there is no such file.
    """
    if is_local(url):
        return _find_local(url)
    fs, path = filesystem(url)
    try:
        if _answered(lambda: fs.isdir(path)):
            return [], True
        info, why = _answered(lambda: _info(fs, path))
        if info is not None:
            return [_remote_entry(fs, info)], False
        found = _answered(lambda: fs.glob(path, detail=True)) if _is_glob(path) else {}
    except OSError as error:
        raise InputError(f"{url}: {_line(error)}") from None
    entries = [_remote_entry(fs, info) for _, info in sorted(found.items()) if info["type"] == "file"]
    if not entries:
        raise InputError(f"{url}: no such file{why}" if not _is_glob(path) else f"{url}: nothing matches{why}")
    return entries, False


def exists(url: str) -> bool:
    """Return whether there is a file or folder of exactly this name. Raises InputError when its backend is not installed."""
    if is_local(url):
        return os.path.lexists(url)
    fs, path = filesystem(url)
    try:
        return bool(tried(lambda: fs.exists(path)))
    except OSError:
        return False


def globbed(url: str) -> dict[str, Entry]:
    """Return the files of a remote folder that match a glob, by url; nothing for local ones, which are asked for one by one."""
    if is_local(url):
        return {}
    fs, path = filesystem(url)
    found = tried(lambda: fs.glob(path, detail=True))
    entries = (_remote_entry(fs, info) for info in found.values() if info["type"] == "file")
    return {entry.url: entry for entry in entries}


def _info(fs: Any, path: str) -> tuple[dict[str, Any] | None, str]:
    """Return what a store says of a file; None for one that is not there, and why, where the store says more than that."""
    try:
        return fs.info(path), ""
    except FileNotFoundError as error:
        said = _line(error)
        return None, f" {said[len(path) :].strip()}" if said.startswith(path + " (") else ""


def _answered(ask: Callable[[], T]) -> T:
    """Return the result of `ask`; whatever a backend raises that is no OSError becomes a StorageError, which is one."""
    try:
        return ask()
    except (OSError, CurateError):
        raise
    except Exception as error:  # httpx, botocore and others have classes of their own
        what = "" if isinstance(error, ValueError) else f"a store gives no answer: {type(error).__name__}: "
        raise StorageError(what + _line(error)) from error


def _line(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split())[:300]


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _find_local(path: str) -> tuple[list[Entry], bool]:
    import glob

    if os.path.isdir(path):
        return [], True
    if os.path.isfile(path):
        return [_local_entry(path, os.stat(path))], False
    if not _is_glob(path):
        raise InputError(f"{path}: no such file" if not os.path.exists(path) else f"{path}: not a regular file")
    names = [name for name in sorted(glob.glob(path, recursive=True)) if os.path.isfile(name)]
    entries = [_local_entry(name, os.stat(name)) for name in names]
    if not entries:
        raise InputError(f"{path}: nothing matches")
    return entries, False


@contextmanager
def staged(url: str) -> Iterator[str]:
    """Yield a local path with the content of `url`; a copy of a remote file is gone afterwards. Raises OSError."""
    if is_local(url):
        yield url
        return
    fs, path = filesystem(url)
    with TemporaryDirectory(prefix="curate-") as folder:
        target = str(Path(folder) / ("staged" + posixpath.splitext(path)[1]))
        tried(lambda: fs.get_file(path, target))
        yield target


def opened(url: str) -> Any:
    """Return what pyarrow reads a file from: a local path as it is, or a file object of a remote file. Raises OSError.

    That object has no read-ahead: pyarrow should use `pre_buffer`, which merges neighbouring reads.
    """
    if is_local(url):
        return url
    fs, path = filesystem(url)
    return tried(lambda: fs.open(path, "rb", cache_type="none"))
