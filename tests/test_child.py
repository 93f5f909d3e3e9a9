"""The process that a worker keeps for its items."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from curate.core.contracts import TaskDied
from curate.runners.spark.child import Child
from tests.dangerous import devices, full, worker_of

Start = Callable[[str], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts a child that sees a device; all are ended with the test."""
    started: list[Child] = []

    def begin(device: str) -> Child:
        started.append(Child(device))
        return started[-1]

    yield begin
    for child in started:
        child.end()


def test_a_child_serves_items_of_any_task_in_one_process(start: Start) -> None:
    child = start("")
    (_, first), (item, second) = (child.run(pickle.dumps(worker_of), number) for number in (1, 2))
    assert (item, first) == (2, second)
    assert first != os.getpid()
    assert child.run(pickle.dumps(full), 0) == 0
    assert child.run(pickle.dumps(full), 1).error == "OutOfDeviceMemory"


def test_a_child_sees_its_device_alone(start: Start) -> None:
    assert [start(device).run(pickle.dumps(devices), 0) for device in ("", "3")] == ["", "3"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGSEGV, -11)])
def test_a_death_is_the_answer_of_its_item(number: int, code: int, start: Start) -> None:
    child = start("")
    death = child.run(pickle.dumps(signal.raise_signal), number)
    assert death == TaskDied(None, f"its worker died with exit code {code}", code)
    assert not child.alive()


def test_what_cannot_travel_is_an_error_of_its_item(start: Start) -> None:
    child, unknown = start(""), pickle.dumps(worker_of).replace(b"worker_of", b"worker_xx")
    for _ in range(2):
        assert child.run(unknown, 1).error == "AttributeError"
    assert child.run(pickle.dumps(iter), [1]) is not None
    assert child.run(pickle.dumps(open), os.devnull).error == "TypeError"
    assert child.run(pickle.dumps(full), 0) == 0


def test_a_child_ends_with_its_parent() -> None:
    """A parent that is killed in the middle of an item leaves nothing: the child's end of its output closes."""
    code = """
import os, pickle, signal, threading
from curate.runners.spark.child import Child
from tests.dangerous import HangingAt
child = Child("")
print(child.run(pickle.dumps(os.getpgid), 0), flush=True)
threading.Thread(target=child.run, args=(pickle.dumps(signal.pause), None), daemon=True).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done: Any = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)  # waits for both to close it
    assert done.returncode == -signal.SIGKILL
    assert done.stdout
