"""The numbers of tars: without gaps over all blocks, in their order.

A block's tars get their numbers when it is packed, from the verdicts of the blocks before it. What changes a block later (a
shard that failed and is tried again, shards that are added, samples that are removed) can change how many tars it fills: then
the tars of the blocks behind it, and their indexes, get other names. Their bytes do not contain any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import NamedTuple

from curate.passes.pack import mark_of
from curate.passes.sample_files import STAGED
from curate.storage.marks import Mark
from curate.storage.samples import index_beside, number_of, sample_files
from curate.storage.store import Store


class Place(NamedTuple):
    """Where a block's tars are: the number of the first, None for tars that are staged, and how many there are."""

    first: int | None
    tars: int


def place_of(mark: Mark) -> Place:
    """Return the place of a packed block."""
    numbers = [number_of(name) for name in sample_files(mark.files)]
    staged = any(name.startswith(STAGED) for name in mark.files)
    return Place(None if staged or not numbers else min(numbers), len(numbers))


def moved(mark: Mark, first: int) -> Mark:
    """Return the mark of a packed block whose tars have moved to begin at the number `first`."""
    if place_of(mark).first == first:
        return mark
    names = {name: target for old, new in _moves(mark.files, first) for name, target in zip(old, new, strict=True)}
    return mark._replace(files={names[name]: file for name, file in mark.files.items()})


def in_order(tars: Mapping[int, int]) -> dict[int, int]:
    """Return the number of the first tar of each block, from how many tars each has, in order.

    >>> in_order({0: 2, 1: 0, 5: 1})
    {0: 0, 1: 2, 5: 2}
    """
    return dict(zip(tars, accumulate(tars.values(), initial=0), strict=False))


@dataclass(frozen=True)
class Numbering:
    """Gives the tars of packed blocks other numbers. A kill leaves one block half done at most (see `complete`)."""

    store: Store
    run: str

    def move(self, places: Mapping[int, Place], first: Mapping[int, int]) -> None:
        """Move the tars of packed blocks, in order, from their places to begin at the numbers `first`.

        Blocks whose numbers become smaller go in order, then the others in reverse order, then those that are staged: so no
        block meets another's files.
        """
        at = {block: place.first for block, place in places.items() if place.tars}
        down = [block for block, number in at.items() if number is not None and first[block] < number]
        up = [block for block, number in reversed(at.items()) if number is not None and first[block] > number]
        for block in (*down, *up, *(block for block, number in at.items() if number is None)):
            self._complete(block, first[block])

    def complete(self) -> None:
        """Complete the move that a kill has interrupted, if one was."""
        if (entry := self.store.read_json(self._journal)) is not None:
            self._complete(**entry)

    @property
    def _journal(self) -> str:
        return f"marks/{self.run}/moving.json"

    def _complete(self, block: int, first: int, done: int = 0) -> None:
        """Move a block of which `done` tars have moved; a tar more may have, for the journal is written before."""
        mark = self.store.mark(self.run, mark_of(block))
        if mark is not None and place_of(mark).first != first:
            moves = _moves(mark.files, first)
            for position, (old, new) in enumerate(moves):
                if position >= done:
                    self.store.write_json(self._journal, {"block": block, "first": first, "done": position})
                    for name, target in zip(old, new, strict=True):
                        self.store.storage.move(name, target)
            self.store.commit(self.run, mark_of(block), moved(mark, first))
        self.store.storage.remove([self._journal])


def _moves(files: Iterable[str], first: int) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return the moves of a block's tars, each with its index, in an order in which none meets another's file."""
    tars = sample_files(files)
    names = [f"shards/{number:05d}{PurePosixPath(tar).suffix}" for number, tar in enumerate(tars, first)]
    found = [((tar, index_beside(tar)), (name, index_beside(name))) for tar, name in zip(tars, names, strict=True)]
    return found[::-1] if tars and first > number_of(tars[0]) else found
