"""How many items a task takes."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.contracts import TaskDied
from curate.runners.spark.child import Child
from curate.runners.spark.chunks import MOST, SECONDS, Chunks, Done, serve
from tests.dangerous import full


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 9), st.data())
def test_every_item_is_done_once_whatever_is_handed_back(items: int, room: int, data: st.DataObject) -> None:
    chunks, done = Chunks(range(items)), Counter[int]()
    while chunk := chunks.cut(room):
        begun = data.draw(st.integers(1, len(chunk)))
        done.update(chunk[:begun])
        chunks.ended(chunk, Done(chunk[:begun], data.draw(st.floats(0, 2 * SECONDS))))
    assert done == Counter(range(items))


def sizes(chunks: Chunks, seconds: float, tasks: int) -> list[int]:
    """Return the sizes of the next chunks when every item takes `seconds`."""
    found = []
    for _ in range(tasks):
        chunk = chunks.cut(1)
        chunks.ended(chunk, Done(chunk, seconds * len(chunk)))
        found.append(len(chunk))
    return found


def test_chunks_grow_until_they_fill_the_seconds_and_shrink_at_once() -> None:
    chunks = Chunks(count())
    assert sizes(chunks, SECONDS / 10, 6) == [1, 2, 4, 8, 10, 10]
    assert sizes(chunks, 0.0, 6) == [10, 20, 40, 80, MOST, MOST]
    assert sizes(chunks, 3 * SECONDS, 3) == [MOST, 1, 1]


def test_the_last_items_are_shared() -> None:
    chunks = Chunks(range(127 + 20))
    assert sizes(chunks, 0.0, 7) == [1, 2, 4, 8, 16, 32, 64]
    assert [len(chunks.cut(4)) for _ in range(9)] == [5, 4, 3, 2, 2, 1, 1, 1, 1]
    assert chunks.cut(4) == []


def test_no_more_is_read_ahead_than_there_is_room_for() -> None:
    taken = count()
    chunks = Chunks(taken)
    sizes(chunks, 0.0, 10)
    chunks.cut(4)
    assert next(taken) <= 1000 + 4 * MOST


def test_a_task_begins_items_until_its_seconds_are_over_and_one_at_least() -> None:
    child = Child("")
    task: Any = pickle.dumps(full)
    did = serve(lambda: child, task, [0, 1, 2], seconds=300.0)
    assert [did.answers[0], did.answers[2]] == [0, 2]
    assert isinstance(did.answers[1], TaskDied)
    assert serve(lambda: child, task, [2, 1, 0], seconds=0.0).answers == [2]
    child.end()
