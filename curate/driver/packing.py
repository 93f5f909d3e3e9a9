"""Packing all blocks: which are missing, where their tars go, and in which order tars get their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from curate.core.contracts import shard_name
from curate.core.errors import OutputError
from curate.core.shards import Shards
from curate.driver.attempts import Attempts
from curate.driver.numbering import Numbering, Place, in_order, moved, place_of
from curate.driver.progress import begin
from curate.driver.resume import Index, Resume, index_of, without
from curate.passes.pack import Block, Pack
from curate.passes.sample_files import STAGED
from curate.storage.marks import Mark
from curate.storage.spool import Spool

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class _Found:
    """What is packed: where the tars of blocks that are up to date are, and the shards with samples of those that are not."""

    places: dict[int, Place] = field(default_factory=dict)
    marks: Spool = field(default_factory=Spool)  # of these blocks, before their tars move
    outdated: dict[int, Index] = field(default_factory=dict)


@dataclass(frozen=True)
class Packing:
    """The pass that writes tars."""

    task: Pack
    shards: Shards
    resume: Resume
    attempts: Attempts

    def marks(self, judged: Callable[[], Index]) -> Iterator[Mark]:
        """Pack what is missing of the judged shards; return the marks of all blocks in order.

        `judged` is called again after a shard could not be packed. Where no block has to change, a new one writes its tars
        where they belong. Else new tars are staged, and change places with the old ones when all are whole.
        """
        numbering = Numbering(self.task.store, self.task.run)
        numbering.complete()
        blocks = self._blocks(judged())
        every = range(-(-len(self.shards) // self.resume.block_shards))
        found = _Found()
        self._find(found, {block: blocks.get(block, _NONE) for block in every})
        self._check(found, blocks)
        missing = {block: shards for block, shards in blocks.items() if block not in found.places}
        first: dict[int, int] = {}
        if not found.outdated:
            filled = {block: self.task.tars(self.resume.kept(self.task, shards)) for block, shards in missing.items()}
            first = in_order({block: filled[block] if block in filled else found.places[block].tars for block in blocks})
            numbering.move(found.places, first)
            found.places.update({block: Place(first[block], place.tars) for block, place in found.places.items()})
        begin(self.attempts.progress, "pack", len(missing), len(blocks))
        work = ((block, tuple(self.shards.at(shards))) for block, shards in missing.items())
        self.attempts.run(self.task, (Block(block, shards, first.get(block)) for block, shards in work))
        blocks = self._blocks(judged())
        self._check(found, blocks)
        self._find(found, {block: shards for block, shards in blocks.items() if block in missing})
        places = dict(sorted(found.places.items()))
        first = in_order({block: place.tars for block, place in places.items()})
        numbering.move(places, first)
        self.task.store.storage.remove_folder(STAGED)
        return (moved(found.marks[block], number) for block, number in first.items())

    def _find(self, found: _Found, blocks: dict[int, Index]) -> None:
        """Find what is packed of some blocks."""
        for block, mark, valid in self.resume.block_marks(self.task, blocks):
            if valid:
                found.places[block] = place_of(mark)
                found.marks[block] = mark
            elif mark.files:
                found.outdated[block] = index_of(name for name, part in mark.parts.items() if part.counts.get("kept"))

    def _check(self, found: _Found, blocks: dict[int, Index]) -> None:
        """Raise OutputError when samples would go because their shard failed now: an output does not lose what it holds."""
        for block, held in found.outdated.items():
            if len(lost := without(held, blocks.get(block, _NONE))):
                names = ", ".join(shard_name(shard) for shard in self.shards.at(lost))
                reasons = {failure.shard.index: failure.reason for failure in self.attempts.failures}
                root, reason = self.task.store.storage.root, reasons.get(int(lost[0]), "failed")
                what = f"{root} holds samples of it, and its tars are as they were: bring the input back and run this again"
                raise OutputError(f"{names}: {reason}; {what}")

    def _blocks(self, judged: Index) -> dict[int, Index]:
        """Return the indexes of the shards of each block."""
        cuts = np.flatnonzero(np.diff(judged // self.resume.block_shards)) + 1
        some = np.split(judged, cuts)
        return {int(part[0] // self.resume.block_shards): part for part in some if len(part)}
