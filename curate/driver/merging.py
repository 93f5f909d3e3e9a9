"""One dataset of several finished outputs: tars are linked or copied, everything else is joined; the outputs are only read.

The blocks of the merged output are those of its sources, so that records can be taken out of it as of any other. It has their
verdicts and no facts. A kill leaves OUT/merge.json without a manifest: the same merge completes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import xxhash

from curate.core.contracts import Runner
from curate.core.errors import InputError, OutputError
from curate.core.shards import Shards
from curate.core.version import __version__
from curate.driver import identity
from curate.driver.attempts import Attempts
from curate.driver.identity import Identity
from curate.driver.manifest import RunSummary, attrition
from curate.driver.merge_manifest import described
from curate.driver.merge_sources import (
    Finished,
    check_apart,
    check_keys,
    check_kinds,
    count_duplicates,
    decisions_schema,
    find_duplicates,
    finished,
    placed,
)
from curate.driver.numbering import in_order, place_of
from curate.driver.progress import Progress, Quiet
from curate.driver.removal import Removal
from curate.driver.resume import Index, index_of
from curate.driver.rewriting import Rewriting
from curate.passes import removed
from curate.passes.merging import JUDGED, DropDuplicates, MergeBlock, Source
from curate.passes.pack import Block
from curate.storage.backend import Storage
from curate.storage.lease import FOLDER as LEASE
from curate.storage.manifest import MERGE, read_manifest
from curate.storage.store import Store

_FOUND = "work/duplicates.parquet"


@dataclass(frozen=True)
class Merged:
    """What a merge did. `removed` records of one output had a tombstone in another."""

    out: str  # path or URL
    state: str  # done, or nothing to do
    outputs: int
    records: int
    kept: int
    tars: int
    duplicates: int  # records that were dropped
    removed: int


@dataclass(frozen=True)
class Merge:
    """Merges outputs, in this order, into a new one. With `drop`, a record that an earlier output keeps too is dropped."""

    outs: Sequence[Storage]
    store: Store
    runner: Runner
    duplicates: Literal["keep", "drop"] = "keep"
    progress: Progress = field(default_factory=Quiet)

    def merge(self) -> Merged:
        """Do what is missing.

        Raises InputError for outputs that are not several and apart, OutputError where one is not finished, two have a sample
        with the same key, or OUT is something else or in use.
        """
        if len(self.outs) < 2:
            raise InputError("name two outputs to merge, or more")
        check_apart(self.outs, self.store.storage)
        outs = [finished(out) for out in self.outs]
        with self.store.locked() as store:
            return replace(self, store=store)._into(outs)

    def _into(self, outs: Sequence[Finished]) -> Merged:
        from curate.report import write_report

        about = self._about(outs)
        self._check(about)
        out = self.store.storage
        if out.size("manifest.json") is not None:
            Removal(self.store, self.runner, self.progress).complete()
            if out.size("report.html") is None:
                self.store.sweep()
                write_report(out)
            return self._merged("nothing to do")
        check_kinds(outs)
        check_keys(self.outs)
        self.store.write_json(MERGE, about)
        run = xxhash.xxh3_64_hexdigest(json.dumps([__version__, about], sort_keys=True).encode())
        shards = Shards(chain.from_iterable(one.shards for one in outs))
        summary = self._joined(outs, run, shards)
        self.store.sweep()
        self._conclude(outs, run, shards, summary)
        self.progress.start("report", 0)
        write_report(out)
        return self._merged("done")

    def _about(self, outs: Sequence[Finished]) -> dict[str, Any]:
        """Return what OUT is merged of: the outputs as they are now."""
        return {
            "duplicates": self.duplicates,
            "outputs": [{"out": one.out.root, "run": one.manifest["run"], "manifest": _digest(one.manifest)} for one in outs],
        }

    def _check(self, about: dict[str, Any]) -> None:
        """Raise OutputError unless OUT is empty, or of this merge."""
        before, out = self.store.read_json(MERGE), self.store.storage
        if before is not None and before != about:
            raise OutputError(f"{out.root} is merged of other outputs, or of these as they were before; choose another --out")
        files = (found.name for found in out.listing("") if not found.name.startswith("."))
        if before is None and (any(files) or set(out.folders("")) - {LEASE}):
            raise OutputError(f"{out.root} is not empty and not a merge; choose an empty or new folder")

    # Steps -----------------------------------------------------------------------------------------------------------

    def _joined(self, outs: Sequence[Finished], run: str, shards: Shards) -> RunSummary:
        """Take over every block, drop what is to be dropped, number the tars and list the files."""
        sources, attempts = placed(outs), Attempts(self.store, self.runner, self.progress)
        self._tombstones()
        task = MergeBlock(self.store, run, sources, decisions_schema(outs), removed.digest(self.store))
        first = in_order({block: tars for block, _, tars in _blocks(outs, sources)})
        done = set(map(int, self.store.marked(run, "pack")))
        missing = (one for one in _blocks(outs, sources) if one[0] not in done)
        self.progress.start("merge", len(first) - len(done))
        attempts.run(task, (Block(block, tuple(shards.at(inside)), first[block]) for block, inside, _ in missing))
        _check_done(attempts)
        touched = self._without_duplicates(sources, run, shards, attempts) if self.duplicates == "drop" else index_of([])
        rewriting = Rewriting(self.store, run, JUDGED, attempts)
        rewriting.blocks(shards, touched)
        return rewriting.conclude()

    def _tombstones(self) -> None:
        """What was taken out of one output is in no part of the merged one."""
        for out in self.outs:
            for found in out.listing(removed.FOLDER):
                name = f"{removed.FOLDER}/{found.name}"
                if name.endswith(".parquet") and self.store.storage.size(name) is None:
                    self.store.storage.write(name, out.read(name) or b"")

    def _without_duplicates(self, sources: Sequence[Source], run: str, shards: Shards, attempts: Attempts) -> Index:
        """Drop duplicates in the decisions; return the shards that have some. After a kill, it finds those that are left."""
        self.progress.start("find duplicates", 0)
        with self.store.writing(_FOUND) as path:
            touched = find_duplicates(self.store.storage, sources, path)
        self.progress.start("drop duplicates", len(touched))
        attempts.run(DropDuplicates(self.store, run, _FOUND), shards.at(touched))
        _check_done(attempts)
        return touched

    def _conclude(self, outs: Sequence[Finished], run: str, shards: Shards, summary: RunSummary) -> None:
        """Write what OUT is of, and last the manifest. Raises OutputError where an output has changed meanwhile."""
        for one in outs:
            if _digest(read_manifest(one.out)) != _digest(one.manifest):
                raise OutputError(f"{one.out.root} has changed meanwhile; merge again into another --out")
        manifest = described(outs)
        manifest["input"]["fingerprint"] = shards.digest
        of = Identity(run, f"{run}-merge", manifest["recipe"], manifest["stages"], __version__, shards.digest, 0, finished=True)
        identity.record(self.store, of, shards)
        dropped = count_duplicates(self.store.storage) if self.duplicates == "drop" else 0
        gone = sum(one.manifest["kept"] for one in outs) - summary.tally["kept"] - dropped
        told = {"duplicates": {"policy": self.duplicates, "dropped": dropped}, "removed_by_others": gone}
        counted = attrition(manifest["filters"], summary.tally)
        self.store.write_json("manifest.json", {"run": of.made_of, **manifest, **counted, **told, "files": summary.files})

    def _merged(self, state: str) -> Merged:
        found = read_manifest(self.store.storage)
        counts = (found["records"], found["kept"], found["files"]["shards"]["files"])
        others = (found["duplicates"]["dropped"], found["removed_by_others"])
        return Merged(self.store.storage.root, state, len(self.outs), *counts, *others)


def _digest(manifest: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def _blocks(outs: Sequence[Finished], sources: Sequence[Source]) -> Iterator[tuple[int, Index, int]]:
    """Yield number, shards and number of tars of each block of the merged output, in order."""
    for one, source in zip(outs, sources, strict=True):
        for block, mark in one.marks():
            inside = index_of(sorted(source.first_shard + int(name) for name in mark.parts))
            yield source.first_block + block, inside, place_of(mark).tars


def _check_done(attempts: Attempts) -> None:
    if attempts.failures:
        raise OutputError(f"{attempts.failures[0].reason}; run the same command again")
