"""Local copies of remote files that are mapped into memory."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import xxhash

from curate.core import file_lock
from curate.storage.backend import Disk, Storage, storage
from curate.storage.paths import is_local

_UNUSED_SECONDS = 86_400.0


def own_folder(name: str, under: Path | None = None) -> Path:
    """Return a folder for temporary files that all processes of this user share. Raises PermissionError when it is another's."""
    user = os.getuid() if hasattr(os, "getuid") else None  # without user ids (Windows) that folder belongs to one user
    folder = (under or Path(gettempdir())) / (f"curate-{name}" if user is None else f"curate-{name}-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if user not in (None, found.st_uid) or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is another user's")
    return folder


def local_copy(storage: Storage, folder: str, names: Sequence[str]) -> Path:
    """Return a local folder with some files of a folder that never changes; the first process on a machine copies them.

    Copies are in the folder for temporary files; one that was not used for a day is removed when the next is made.
    """
    storage = storage.own  # such folders are never those that outputs share
    if isinstance(storage, Disk):
        return Path(storage.root, folder)
    copies = own_folder("copies")
    copy = copies / xxhash.xxh3_64_hexdigest(storage.url(folder).encode())
    with (copies / "lock").open("a") as lock:
        file_lock.lock(lock)
        if not copy.is_dir():
            _tidy(copies)
            partial = Path(mkdtemp(dir=copies))
            for name in names:
                with storage.reading(f"{folder}/{name}") as path:
                    shutil.move(path, partial / name)
            partial.rename(copy)
        os.utime(copy)
    return copy


def at_hand(url: str, names: Sequence[str]) -> Path:
    """Return a local folder with some files of the folder at a path or URL (see local_copy)."""
    if is_local(url):
        return Path(url)
    root, _, name = url.rpartition("/")
    return local_copy(storage(root), name, names)


def _tidy(copies: Path) -> None:
    for path in copies.iterdir():
        if path.is_dir() and path.stat().st_mtime < time.time() - _UNUSED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
