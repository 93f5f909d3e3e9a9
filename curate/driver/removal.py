"""Taking records out of a finished output, for good: say first, then leave tombstones, then rewrite what holds the records.

The input is not needed. A kill leaves OUT/removing.json, by which the next command that writes to OUT completes the removal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP, Runner
from curate.core.errors import OutputError
from curate.core.verdicts import REMOVED
from curate.driver import identity
from curate.driver.attempts import Attempts
from curate.driver.manifest import attrition
from curate.driver.progress import Progress, Quiet
from curate.driver.rewriting import Rewriting
from curate.passes import removed
from curate.passes.removal import BASE, RemoveFromShard
from curate.passes.removal_search import NOTES, FindFetched, FindInTars, looked_for, take_notes
from curate.passes.removed import Tombstone
from curate.storage.manifest import read_manifest
from curate.storage.store import Store

PENDING = "removing.json"

_COLUMNS = ["shard", "shard_index", "row", "text_no", "sample_key", "key", "url", "text", "sha256", "phash", "dropped_by"]


@dataclass(frozen=True)
class Selection:
    """What is to be removed: by sha256 of the image, perceptual hash (and radius in bits), url, key, or text.

    `computed` has hashes that decisions do not hold, by kind (see curate.passes.removal_search), as hex digits with a radius.
    """

    sha256: Sequence[str] = ()
    phash: Sequence[tuple[int, int]] = ()
    urls: Sequence[str] = ()
    keys: Sequence[str] = ()  # a record's own, or that of its sample
    texts: Sequence[str] = ()
    computed: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a selection is in an output: tombstones, and the records (shard, row, key, url, sha256, kept) by shard's index."""

    tombstones: list[Tombstone] = field(default_factory=list)
    records: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Return the number of records."""
        return sum(map(len, self.records.values()))

    @property
    def kept(self) -> int:
        """Return how many of them are samples in tars."""
        return sum(record["kept"] for some in self.records.values() for record in some)


@dataclass(frozen=True)
class Removal:
    """Takes records out of one output."""

    store: Store
    runner: Runner
    progress: Progress = field(default_factory=Quiet)

    def remove(self, selection: Selection, date: str, *, dry_run: bool = False) -> Found:
        """Remove what is selected; `date` (ISO) is recorded. Raises OutputError when OUT is in use or was never finished."""
        with self.store.locked() as store:
            holding = replace(self, store=store)
            holding.complete()
            read_manifest(store.storage)
            found = holding.find(holding.searched(selection), date)
            if found.records and not dry_run:
                removed.add(store, found.tombstones)
                store.write_json(PENDING, {"shards": sorted(found.records)})
                holding.complete()
            return found

    def searched(self, selection: Selection) -> Selection:
        """Return a selection with the keys and sha256 of what its computed hashes are in OUT."""
        was, wanted = identity.held(self.store), looked_for(selection.computed)
        if was is None or not any(selection.computed.values()):
            return selection
        shards, attempts = identity.shards_of(self.store, was), Attempts(self.store, self.runner, self.progress)
        self.store.storage.remove_folder(NOTES)  # those of a search that was killed
        blocks = (block for block, _ in Rewriting(self.store, was.run, "", attempts).every(shards))
        self.progress.start("look through tars", sum(1 for _ in self.store.marked(was.run, "pack")))
        attempts.run(FindInTars(self.store, was.run, wanted), blocks)
        web = np.flatnonzero(shards.on_the_web)
        self.progress.start("look through fetched images", len(web))
        attempts.run(FindFetched(self.store, wanted), shards.at(web))
        if attempts.failures:
            raise OutputError(f"{attempts.failures[0].reason}; nothing was removed")
        keys, digests = (take_notes(self.store, kind) for kind in ("block", "shard"))
        return replace(selection, keys=[*selection.keys, *keys], sha256=[*selection.sha256, *digests])

    def find(self, selection: Selection, date: str) -> Found:
        """Look through the decisions."""
        stones = [Tombstone("sha256", digest.lower(), date) for digest in selection.sha256]
        stones += [Tombstone("phash", f"{value:016x}", date, radius) for value, radius in selection.phash]
        stones += [Tombstone("url", removed.url_value(url), date) for url in selection.urls]
        stones += [Tombstone("text", removed.text_value(text), date) for text in selection.texts]
        if selection.keys or selection.phash:
            stones += self._images(selection, removed.of(stones), date)
        if selection.texts:
            stones += self._images_with_earlier_texts(removed.of(stones), date)
        found, wanted = Found(list(dict.fromkeys(stones))), removed.of(stones)
        for table in self._decisions():
            for row in table.filter(wanted.of_decisions(table).is_valid()).to_pylist():
                if row["text_no"] == 0 and row["dropped_by"] != REMOVED:
                    record = {name: row[name] for name in ("shard", "row", "key", "url", "sha256")}
                    kept = row["sample_key"] is not None
                    found.records.setdefault(row["shard_index"], []).append({**record, "kept": kept})
        return found

    def _images(self, selection: Selection, near: removed.Removed, date: str) -> Iterator[Tombstone]:
        """Yield tombstones of the images of records with these keys or near these hashes: every copy of them goes."""
        keys = pa.array(selection.keys, pa.string())
        for table in self._decisions():
            named = pc.or_(pc.is_in(table["key"], value_set=keys), pc.is_in(table["sample_key"], value_set=keys))
            for row in table.filter(pc.or_(named, near.of_decisions(table).is_valid())).to_pylist():
                if row["sha256"] is not None:
                    yield Tombstone("sha256", row["sha256"], date)
                elif row["url"] is not None:
                    yield Tombstone("url", removed.url_value(row["url"]), date)
                elif row["text"]:
                    yield Tombstone("text", removed.text_value(row["text"]), date)

    def _images_with_earlier_texts(self, gone: removed.Removed, date: str) -> Iterator[Tombstone]:
        """Yield tombstones of the images that have such a text from an earlier run: base facts know it, decisions do not."""
        was, out = identity.held(self.store), self.store.storage
        ours = np.zeros(0, np.uint64) if was is None else identity.shards_of(self.store, was).fingerprints
        for key in (key for key in out.folders("facts") if key.startswith(BASE)):
            for name in self.store.committed(key).files(key, ours, np.arange(len(ours))).names.to_pylist():
                with out.reading(f"facts/{key}/{name}") as path:
                    for found in _with_earlier_texts(path, gone):
                        yield Tombstone("sha256", found, date)

    def _decisions(self) -> Iterator[pa.Table]:
        out = self.store.storage
        for name in sorted(found.name for found in out.listing("decisions") if found.name.endswith(".parquet")):
            with out.reading(f"decisions/{name}") as path:
                for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP, columns=_COLUMNS):
                    yield pa.Table.from_batches([batch])

    # What a kill may interrupt -----------------------------------------------------------------------------------------

    def complete(self) -> None:
        """Complete a removal that was begun, if one was. Raises OutputError."""
        from curate.report import write_report

        pending = self.store.read_json(PENDING)
        if pending is None:
            return
        was = identity.held(self.store)
        assert was is not None
        touched, shards = np.array(pending["shards"], np.int64), identity.shards_of(self.store, was)
        attempts = Attempts(self.store, self.runner, self.progress)
        judged = next(kind for kind in self.store.storage.folders(f"marks/{was.run}") if kind.startswith("judge-"))
        self.progress.start("remove from shards", len(touched))
        attempts.run(RemoveFromShard(self.store, was.run, judged, removed.digest(self.store)), shards.at(touched))
        rewriting = Rewriting(self.store, was.run, judged, attempts)
        rewriting.blocks(shards, touched)
        summary = rewriting.conclude()
        manifest: Mapping[str, Any] = self.store.read_json("manifest.json") or {}
        counted = attrition(manifest.get("filters", ()), summary.tally)
        self.store.write_json("manifest.json", {**manifest, **counted, "files": summary.files})
        write_report(self.store.storage)
        self.store.sweep()
        self.store.storage.remove([PENDING])


def _with_earlier_texts(path: Path, gone: removed.Removed) -> Iterator[str]:
    """Yield the sha256 of images that have a text of `gone` from an earlier run, given the base facts of a shard."""
    file = pq.ParquetFile(path)
    if "earlier_texts" in file.schema_arrow.names:  # of the facts of an earlier version none
        for batch in file.iter_batches(ROW_GROUP, columns=["sha256", "earlier_texts"]):
            named = gone.of_earlier_texts(batch["earlier_texts"]).is_valid()
            yield from batch["sha256"].filter(named).drop_null().to_pylist()
