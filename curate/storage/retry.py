"""Retries: a request to a remote store that failed (500, time-out, lost connection) may work the next time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from curate.core.errors import StorageError

T = TypeVar("T")

_TRIES = 6
_FIRST_WAIT = 0.2  # seconds before the second try; twice as long before each further one, more or less
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def tried(ask: Callable[[], T]) -> T:
    """Return the result of `ask`, retrying errors that may pass; a missing file or permission is final.

    Raises StorageError, an OSError, when the last attempt fails too.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return ask()
        except _FINAL:
            raise
        except Exception as error:
            if type(error).__name__.endswith("CredentialsError"):
                raise StorageError(str(error)) from error
            if attempt == _TRIES:
                raise StorageError(f"a store gives no answer: {type(error).__name__}: {error}") from error
            time.sleep(_FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
