"""Tars keep consecutive numbers when blocks change, and a kill while they move loses none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.driver.numbering import Numbering, Place, in_order, place_of
from curate.passes.pack import mark_of
from curate.storage.backend import Disk, storage
from curate.storage.marks import File, Mark
from curate.storage.store import Store


class Killed(BaseException):
    """What a kill does to a process, for a test."""


class Mortal(Disk):
    """A disk that dies before one of its changes."""

    left = -1  # changes that it makes before

    def _change(self) -> None:
        if Mortal.left == 0:
            raise Killed
        Mortal.left -= 1

    def move(self, old: str, new: str) -> None:
        self._change()
        super().move(old, new)

    def write(self, name: str, data: bytes) -> None:
        self._change()
        super().write(name, data)

    def remove(self, names: object) -> None:
        self._change()
        super().remove(names)  # type: ignore[arg-type]


@contextmanager
def dying_after(changes: int) -> Iterator[None]:
    Mortal.left = changes
    with suppress(Killed):
        yield
    Mortal.left = -1


def written(root: Path, tars: dict[int, int], gap: int) -> Store:
    """Return an output of packed blocks, `gap` free numbers before each; a tar holds its block and its place there."""
    store, number = Store(Mortal(str(root))), 0
    for block, count in tars.items():
        number += gap
        files = {}
        for place in range(count):
            for name in (f"shards/{number:05d}.tar", f"index/{number:05d}.parquet"):
                store.storage.write(name, f"{block} {place}".encode())
                files[name] = File(1)
            number += 1
        store.commit("run", mark_of(block), Mark(files, made_with="x"))
    return store


def moved(store: Store, tars: dict[int, int]) -> None:
    """Do what a run does: complete what was begun, then move the blocks to where they belong."""
    numbering = Numbering(store, "run")
    numbering.complete()
    places = {}
    for block in tars:
        mark = store.mark("run", mark_of(block))
        assert mark is not None
        places[block] = place_of(mark)
    numbering.move(places, in_order({block: place.tars for block, place in places.items()}))


def content(root: Path, folder: str) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted((root / folder).glob("*"))}


@given(
    tars=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    gap=st.integers(0, 3),
    kills=st.lists(st.integers(0, 12), max_size=4),
)
def test_numbers_are_consecutive_wherever_a_kill_falls(
    tmp_path_factory: pytest.TempPathFactory, tars: list[int], gap: int, kills: list[int]
) -> None:
    root, blocks = tmp_path_factory.mktemp("out"), dict(enumerate(tars))
    store = written(root, blocks, gap)
    for changes in kills:
        with dying_after(changes):
            moved(store, blocks)
    moved(store, blocks)
    wanted = [f"{block} {place}" for block, count in blocks.items() for place in range(count)]
    for folder in ("shards", "index"):
        assert content(root, folder) == {f"{number:05d}": text for number, text in enumerate(wanted)}
    assert not (root / "marks" / "run" / "moving.json").exists()


def test_a_block_that_grew_pushes_the_others_up(tmp_path: Path) -> None:
    store = written(tmp_path, {0: 2, 1: 3, 2: 1}, 0)
    Numbering(store, "run").move({1: Place(2, 3), 2: Place(5, 1)}, in_order({0: 4, 1: 3, 2: 1}))
    assert list(content(tmp_path, "shards").items())[2:] == [
        ("00004", "1 0"), ("00005", "1 1"), ("00006", "1 2"), ("00007", "2 0"),
    ]  # fmt: skip


def test_moving_on_an_object_store(tmp_path: Path) -> None:
    there = storage("memory://numbering")
    there.write("shards/00001.tar", b"one")
    there.move("shards/00001.tar", "shards/00000.tar")
    there.move("shards/00009.tar", "shards/00000.tar")
    assert [found.name for found in there.listing("shards")] == ["00000.tar"] and there.read("shards/00000.tar") == b"one"
    there.remove_folder("")
