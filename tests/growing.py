"""What tests of outputs that grow, shrink and are killed share."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from curate.storage.backend import Disk, Remote
from tests.running import Setup, run_job, written

T = TypeVar("T")

_CHANGES = {Disk: ("writing", "move"), Remote: ("write", "create", "writing", "move")}


class Killed(BaseException):
    """What a kill does to a process, for a test."""


@contextmanager
def dying_after(changes: int, storage: type[Disk] | type[Remote] = Disk) -> Iterator[list[int]]:
    """Kill this process, as it were, at one of its changes to a disk or to an object store; give how many are left until then."""
    left = [changes]

    def counted(change: Any) -> Any:
        def dying(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():  # the lease is renewed in a thread, which dies too
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return change(*arguments, **named)

        return dying

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES[storage]:
            patch.setattr(storage, name, counted(getattr(storage, name)))
        with suppress(Killed):
            yield left


def at_second_try(act: Callable[[], T], changes: int, storage: type[Disk] | type[Remote] = Disk) -> T:
    """Return what `act` does after it was killed once."""
    with dying_after(changes, storage) as left:
        act()
    assert left[0] < 0, f"it ended {left[0]} changes before it could be killed"
    return act()


def one_run(setup: Setup, out: Path, fresh: Path) -> dict[str, str]:
    """Return what one run into the folder `fresh` writes that knows what was taken out of `out`."""
    shutil.rmtree(fresh, ignore_errors=True)
    if (out / "removed").is_dir():
        fresh.mkdir(parents=True)
        (fresh / ".lock").touch()
        shutil.copytree(out / "removed", fresh / "removed")
    assert run_job(setup, fresh).failed == []
    return written(fresh)


def named_facts(store: Path) -> dict[str, int]:
    """Return the files that the marks of a store of facts name, with the sizes that they have."""
    named = [name for mark in store.glob("facts/*/*.json") for name in json.loads(mark.read_text()).get("files", {})]
    return {name: (store / name).stat().st_size for name in named}
