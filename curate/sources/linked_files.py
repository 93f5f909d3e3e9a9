"""Files that a table refers to by path. Nothing outside the table's folder is ever opened, but links of a folder's own."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from curate.sources.records import MAX_IMAGE
from curate.storage.paths import filesystem, is_local
from curate.storage.retry import tried

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def unescaped(data: bytes) -> bytes:
    """Return what percent escapes stand for.

    >>> unescaped(b"a%20b%zz")
    b'a b%zz'
    """
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), data)


@dataclass(frozen=True)
class Folder:
    """A folder. Files are read by relative name, which may be hostile: nothing outside the folder is ever opened.

    `listed`: names come from a listing of the folder, and links that stand in it are followed, as its owner means them.
    """

    url: str
    listed: bool = False

    @classmethod
    def of_file(cls, url: str) -> Folder:
        """Return the folder of a file."""
        return cls(url.rpartition("/")[0] or "/")

    def load(self, name: str) -> tuple[bytes | None, str | None]:
        """Return the content of the file `name`, and an error code (curate.sources.records.ERRORS) when there is none."""
        if name.lower().startswith(("http://", "https://")):
            return None, "image_is_url"
        if not name or "\0" in name:
            return None, "unsafe_path"
        if not is_local(self.url):
            return self._load_remote(name)
        for path in _spellings(name):
            found = self._load_local(path)
            if found[1] != "image_not_found":
                break
        return found

    def _load_local(self, name: str) -> tuple[bytes | None, str | None]:
        root = os.path.realpath(self.url)
        try:
            path = os.path.realpath(os.path.join(root, name))
            if not self.listed and not path.startswith(root.rstrip(os.sep) + os.sep):
                return None, "unsafe_path"
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return None, "image_not_found"
            if status.st_size > MAX_IMAGE:
                return None, "image_too_large"
            with open(path, "rb") as file:
                return file.read(MAX_IMAGE), None
        except OSError:
            return None, "image_not_found"
        except ValueError:  # a lone surrogate
            return None, "unsafe_path"

    def _load_remote(self, name: str) -> tuple[bytes | None, str | None]:
        fs, root = filesystem(self.url)
        root = root.rstrip("/") + "/"
        path = fs._strip_protocol(name) if "://" in name else posixpath.join(root, name)
        path = posixpath.normpath(path)
        if not path.startswith(root):
            return None, "unsafe_path"
        try:
            info = tried(lambda: fs.info(path))
            if info["type"] != "file":
                return None, "image_not_found"
            if (info["size"] or 0) > MAX_IMAGE:
                return None, "image_too_large"
            return bytes(tried(lambda: fs.cat_file(path))), None
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None, "image_not_found"


def _spellings(name: str) -> Iterator[str]:
    """Yield the paths that a name may mean, the likeliest first: a file: URI, or backslashes that separate folders."""
    path = name
    if name[:6].lower() == "file:/":  # with two more slashes, or, as Java writes it, with none
        path = name[5:].removeprefix("//")
        path = path[len("localhost") :] if path.lower().startswith("localhost/") else path
        if "%" in path:
            yield os.fsdecode(unescaped(path.encode(errors="replace")))
    yield path
    if "\\" in path:
        yield path.replace("\\", "/")
