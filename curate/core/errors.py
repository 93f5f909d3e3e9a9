"""Every error that a user of curate can cause or meet.

CurateError
├── RecipeError     the recipe or a --set is wrong                exit 2
├── InputError      an input cannot be found, listed or used      exit 1
│   └── OptionError an option about the input means nothing       exit 2
├── OutputError     OUT is in use, full, or not one of ours       exit 1
│   └── InUse       another process holds OUT
├── DiskFull        OUT's disk is full                            exit 1
├── NetworkDown     no site can be reached                        exit 1
├── StorageError    a remote store gives no answer                exit 1
├── RunnerError     an engine or its cluster cannot be had        exit 1
├── ModelError      a model cannot be loaded                      exit 1
└── OutOfDeviceMemory  a batch does not fit the GPU               the run halves the batch, once
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class CurateError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    exit_code = 1


class RecipeError(CurateError):
    """A recipe, or a --set, that cannot mean anything: says file, line and the nearest known name."""

    exit_code = 2


class InputError(CurateError):
    """An input that cannot be found, listed or used at all (a broken shard is not an error: it is recorded)."""


class OptionError(InputError):
    """An option about the input that cannot mean anything: --table, --column."""

    exit_code = 2


class StorageError(CurateError, OSError):
    """A remote store did not answer after several tries."""


class DiskFull(CurateError, OSError):
    """The disk of OUT has no room left: says which file could not be written."""


class NetworkDown(CurateError):
    """Nothing that was requested could be reached: says what failed, and how to go on."""


class OutputError(CurateError):
    """An output folder that is in use by another run, or cannot be one."""


class InUse(OutputError):
    """An output that another process holds; both are its arguments."""

    def __init__(self, out: str, holder: str) -> None:
        super().__init__(out, holder)
        self.out, self.holder = out, holder

    def __str__(self) -> str:
        return f"{self.out} is in use by {self.holder}; wait for it, or choose another --out"


class RunnerError(CurateError):
    """An engine that is not installed, a cluster that does not answer, or one whose workers cannot start."""


class ModelError(CurateError):
    """A model that cannot be loaded: says which package or file is missing."""


class OutOfDeviceMemory(CurateError):
    """A batch that does not fit the memory of the GPU: the run halves the batch of the models, once (see curate.driver.run)."""


def needs(what: str, extra: str, modules: Sequence[str]) -> None:
    """Raise InputError where a package is not installed that `what` needs."""
    from importlib.util import find_spec

    missing = next((name for name in modules if find_spec(name) is None), None)
    if missing is not None:
        raise InputError(f"{what} needs {missing}: pip install 'curate-image-text[{extra}]'")


def near(name: str, known: Iterable[str]) -> str:
    """Return what a message adds when something known is spelt almost so; nothing otherwise.

    >>> near("min_sid", ["min_side", "nsfw"]), near("x", ["min_side"])
    ("; did you mean 'min_side'?", '')
    """
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
