"""SIGTERM, held back while what is at hand is committed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_noted() -> Iterator[threading.Event]:
    """Give an event that SIGTERM sets; what it does else, it does after the block.

    Who asks a process to end waits a few seconds before it kills. In another thread than the main one the event is never set.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
        if told.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
