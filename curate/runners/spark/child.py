"""A process in which a worker runs its items: an item that kills it does not kill the worker.

For engines that count the death of their own worker as a failure of everything that it had been given. The process imports
and loads models once and serves item after item. It ends with its parent, for whatever reason that ends, and when memory
runs out the kernel kills it first.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from curate.core.contracts import TaskDied
from curate.runners.worker import ONE_THREAD, attempt

_KILLED_FIRST = "500"  # of -1000 to 1000: the kernel prefers this process to the engine's


class Child:
    """The process, seen from its parent. `device` is its CUDA_VISIBLE_DEVICES."""

    def __init__(self, device: str) -> None:
        self.device = device
        path = os.pathsep.join(entry for entry in sys.path if entry)  # the engine may have added to it
        environment = {**ONE_THREAD, **os.environ, "CUDA_VISIBLE_DEVICES": device, "PYTHONPATH": path}
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[theirs.fileno()])
        self._connection = Connection(ours.detach())
        self._task = b""

    def alive(self) -> bool:
        """Return whether it is running."""
        return self._process.poll() is None

    def run(self, task: bytes, item: Any) -> Any:
        """Return the pickled task's answer for an item, or a TaskDied without the item, which the caller has."""
        try:
            self._connection.send((None if task == self._task else task, item))
            self._task = task
            return self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            return TaskDied(None, f"its worker died with exit code {code}", code)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()
        self._connection.close()


def main(descriptor: int) -> None:
    """Serve items until the parent closes its end of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST)
    task = b""
    with Connection(descriptor) as connection:
        while True:
            try:
                given = connection.recv_bytes()
            except EOFError:
                return
            answer, task = _answered(given, task)
            connection.send_bytes(answer)


def _answered(given: bytes, task: bytes) -> tuple[bytes, bytes]:
    """Return a pickled answer, and the pickled task that later items without a task of their own use."""
    try:
        new, item = pickle.loads(given)
        task = task if new is None else new
        return pickle.dumps(attempt(_loaded(task), item)), task
    except Exception as error:  # noqa: BLE001 - cannot be pickled or unpickled: reported like an error of the task
        return pickle.dumps(TaskDied(None, f"{type(error).__name__}: {error}", error=type(error).__name__)), task


_loaded = functools.lru_cache(1)(pickle.loads)


def _end_with_parent() -> None:
    """Kill this process when the parent's end of standard input closes, even in the middle of an item."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
