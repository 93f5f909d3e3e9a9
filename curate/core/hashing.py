"""The sha256 of files and of the code that is not curate's: what names tars, weights, and facts of plug-ins."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ORIGIN = "__curate_sha256__"
"""The attribute of a plug-in's module that has the sha256 of its text."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_of(kind: type | Callable[..., Any]) -> str | None:
    """Return the sha256 of the file of a class or function that is not curate's; None for one of curate, whose version counts."""
    if kind.__module__.partition(".")[0] == "curate":
        return None
    module = sys.modules[kind.__module__]
    known: str | None = getattr(module, ORIGIN, None)
    path = getattr(module, "__file__", None)
    return known or (file_sha256(Path(path)) if path and Path(path).is_file() else kind.__qualname__)
