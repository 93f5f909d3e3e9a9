"""Files of one storage in another: linked where both are on one disk, copied by the store that has both, else copied."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

from curate.storage.backend import Disk, Remote, Storage
from curate.storage.paths import filesystem
from curate.storage.retry import tried

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Another disk, or a file system without hard links, or a file with as many as it can have."""


def link_or_copy(source: Storage, name: str, target: Storage, new: str) -> None:
    """Make the file `name` of `source` the file `new` of `target`, replacing it as a whole.

    On one disk both are then one file: that is safe, since no file is ever changed in place (see Storage.writing). Raises
    FileNotFoundError where there is none, DiskFull, OSError.
    """
    if isinstance(source, Disk) and isinstance(target, Disk) and _linked(Path(source.root, name), Path(target.root, new)):
        return
    if isinstance(source, Remote) and isinstance(target, Remote):
        (fs, old), (other, place) = filesystem(source.url(name)), filesystem(target.url(new))
        if fs == other:
            tried(lambda: fs.copy(old, place))
            return
    with source.reading(name) as path, target.writing(new) as copy:
        shutil.copyfile(path, copy)


def _linked(old: Path, new: Path) -> bool:
    """Return whether a file could be linked."""
    new.parent.mkdir(parents=True, exist_ok=True)
    partial = new.with_name(f".{new.name}.{uuid.uuid4().hex[:8]}")
    try:
        os.link(old, partial)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    os.replace(partial, new)
    partial.unlink(missing_ok=True)  # it stays where `new` was the same file already
    return True
