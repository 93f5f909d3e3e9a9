"""What a system lacks does not stop curate."""

from __future__ import annotations

import os

import pytest

from curate.commands import common
from curate.core.platform import cores


def test_cores_are_those_that_this_process_may_use() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not restrict processes to cores")
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_where_affinity_is_absent_all_cores_count(count: int | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores() == common.workers(None) == expected
    assert common.workers(3) == 3
