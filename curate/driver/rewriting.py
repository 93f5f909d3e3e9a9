"""Blocks of an output, written again from their own tars after decisions have changed; the input is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curate.core.errors import OutputError
from curate.core.shards import Shards
from curate.driver.attempts import Attempts
from curate.driver.manifest import RunSummary, write_lists
from curate.driver.numbering import Numbering, in_order, moved, place_of
from curate.driver.resume import Index, index_of
from curate.passes.pack import Block, mark_of
from curate.passes.removal import RemoveFromBlock
from curate.passes.sample_files import STAGED
from curate.storage.marks import Mark
from curate.storage.samples import sample_files
from curate.storage.spool import Spool
from curate.storage.store import Store


@dataclass(frozen=True)
class Rewriting:
    """Writes blocks of a run that was packed to its end. Everything may be done again after a kill."""

    store: Store
    run: str  # the folder of its marks
    judged: str  # the folder of the marks of its verdicts
    attempts: Attempts

    def blocks(self, shards: Shards, touched: Index) -> None:
        """Write the blocks that hold these shards, and those whose mark keeps fewer samples than their tars have.

        The new tars are staged. Raises OutputError where one cannot be written, or an earlier task has failed.
        """
        blocks = list(self._touched(shards, touched))
        self.attempts.progress.start("remove from tars", len(blocks))
        self.attempts.run(RemoveFromBlock(self.store, self.run, self.judged), blocks)
        if self.attempts.failures:
            raise OutputError(f"{self.attempts.failures[0].reason}; run the same command again")

    def _touched(self, shards: Shards, touched: Index) -> Iterator[Block]:
        """Yield these blocks."""
        for block, mark in self.every(shards):
            inside = index_of(shard.index for shard in block.shards)
            samples = sum(mark.files[name].samples or 0 for name in sample_files(mark.files))
            if np.isin(inside, touched).any() or samples != sum(part.counts.get("kept", 0) for part in mark.parts.values()):
                yield block

    def conclude(self) -> RunSummary:
        """Number the tars without gaps, and write the lists of files."""
        numbering = Numbering(self.store, self.run)
        numbering.complete()
        places, marks = {}, Spool()
        for block, mark in self.marks():
            places[block], marks[block] = place_of(mark), mark
        first = in_order({block: place.tars for block, place in places.items()})
        numbering.move(places, first)
        self.store.storage.remove_folder(STAGED)
        return write_lists(self.store, (moved(marks[block], number) for block, number in first.items()))

    def every(self, shards: Shards) -> Iterator[tuple[Block, Mark]]:
        """Yield the blocks with all of their shards, which their marks name (they may have any boundaries), and the marks."""
        for block, mark in self.marks():
            yield Block(block, tuple(shards.at(index_of(sorted(map(int, mark.parts))))), None), mark

    def marks(self) -> Iterator[tuple[int, Mark]]:
        """Yield the blocks with their marks, in order."""
        blocks = sorted(map(int, self.store.marked(self.run, "pack")))
        for block, (_, mark) in zip(blocks, self.store.marks(self.run, map(mark_of, blocks)), strict=True):
            if mark is not None:
                yield block, mark
