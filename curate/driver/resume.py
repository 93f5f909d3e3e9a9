"""What earlier attempts at a run have committed, found by listing; and how to undo it before it is made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from curate.core.errors import OutputError
from curate.core.shards import Shards
from curate.fetch.image_log import shards_without_images
from curate.passes.fetch import Fetch
from curate.passes.judge import Judge, Prepare
from curate.passes.pack import Pack, mark_of, packed
from curate.passes.scan import Scan
from curate.storage.backend import Found
from curate.storage.marks import Mark
from curate.storage.store import Store

Index: TypeAlias = npt.NDArray[np.int64]
"""Indexes of shards, ascending."""


@dataclass(frozen=True)
class Resume:
    """Finds the shards and blocks that are done, without reading a mark per shard."""

    store: Store
    block_shards: int  # shards per block

    def unscanned(self, task: Scan, shards: Shards) -> Index:
        """Return the shards whose base facts or partial counts are missing."""
        done = np.ones(len(shards), np.bool_)
        for key in task.provides():
            done &= self.store.committed(key).holds(shards.fingerprints)
        return np.flatnonzero(~done)

    def unfetched(self, task: Fetch, shards: Shards, web: Index) -> Index:
        """Return which of the shards `web`, whose images are URLs, have images to fetch.

        These are shards that were not finished, that have lost a tar of images, and with `task.retry` those with failures.
        """
        if task.retry:
            self._undo_fetch(task, self._with_failures(task, web))
        self._undo_fetch(task, shards_without_images(self.store, shards.at(web)))
        return without(web, index_of(self.store.marked(task.judge.run, task.judge.fetch_marks)))

    def _with_failures(self, task: Fetch, web: Index) -> list[int]:
        found = self.store.marks(task.judge.run, (f"{task.judge.fetch_marks}/{index:06d}" for index in web))
        return [index for index, (_, mark) in zip(web.tolist(), found, strict=True) if mark is not None and mark.counts["failed"]]

    def _undo_fetch(self, task: Fetch, shards: Sequence[int]) -> None:
        """Remove the fetch marks of some shards, and first what was decided from them."""
        if shards:
            self._undo_verdicts(task.judge, shards)
            self.store.unmark(task.judge.run, [f"{task.judge.fetch_marks}/{index:06d}" for index in shards])

    def _undo_verdicts(self, judge: Judge, shards: Sequence[int]) -> None:
        """Remove the marks of some shards' verdicts, and first those of the blocks that they are in."""
        prepare = Prepare(judge)
        self.store.unmark(judge.run, dict.fromkeys(mark_of(index // self.block_shards) for index in shards))
        for folder in (judge.marks, prepare.marks, prepare.marks_for_models):
            self.store.unmark(judge.run, [f"{folder}/{index:06d}" for index in shards])

    def judged(self, task: Judge) -> Index:
        """Return the shards whose verdicts are valid; removes marks whose decisions are gone, or that used other counts yet."""
        for kind in self.store.storage.folders(f"marks/{task.run}"):
            if kind.startswith("judge-") and kind not in (task.marks, task.earlier_marks):
                self.store.storage.remove_folder(f"marks/{task.run}/{kind}")
        there = index_of(found.name.removesuffix(".parquet") for found in self._files("decisions"))
        marked = index_of(self.store.marked(task.run, task.marks))
        if len(undecided := without(marked, there)):
            self._undo_verdicts(task, undecided.tolist())
        return both(marked, there)

    def _files(self, folder: str) -> Iterator[Found]:
        return (found for found in self.store.storage.listing(folder) if not found.name.startswith("."))

    def prepared(self, task: Prepare) -> Index:
        """Return the shards whose facts before the models are committed."""
        marked = index_of(self.store.marked(task.judge.run, task.marks))
        return np.union1d(marked, self.for_models(task))

    def for_models(self, task: Prepare) -> Index:
        """Return the prepared shards that have rows for which model facts are missing."""
        return index_of(self.store.marked(task.judge.run, task.marks_for_models))

    def kept(self, task: Pack, shards: Index) -> int:
        """Return how many samples of some judged shards are kept. Raises OutputError when a mark is gone."""
        found = self.store.marks(task.run, (f"{task.judged}/{index:06d}" for index in shards))
        marks = dict(found)
        if missing := [name for name, mark in marks.items() if mark is None]:
            raise OutputError(f"{self.store.storage.root}: the verdicts of {missing[0]} are gone; run the same command again")
        return sum(mark.counts["kept"] for mark in marks.values() if mark is not None)

    def block_marks(self, task: Pack, blocks: Mapping[int, Index]) -> Iterator[tuple[int, Mark, bool]]:
        """Yield the blocks (index -> shards) that were ever packed, with their marks, and whether these are up to date."""
        made_with, listed = task.made_with(), list(blocks)
        found = self.store.marks(task.run, map(mark_of, listed))
        for block, (_, mark) in zip(listed, found, strict=True):
            if mark is not None:
                yield block, mark, packed(mark, made_with, blocks[block])


def index_of(numbers: Iterable[str] | Iterable[int]) -> Index:
    """Return numbers, as text or not, as an array."""
    return np.fromiter(map(int, numbers), np.int64)


def without(some: Index, others: Index) -> Index:
    """Return the first indexes without the others. Each is there once: numpy need not spend its time to see to that."""
    return np.setdiff1d(some, others, assume_unique=True)


def both(some: Index, others: Index) -> Index:
    """Return the indexes that are in both, ascending."""
    return np.intersect1d(some, others, assume_unique=True)
