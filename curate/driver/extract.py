"""Extraction of image-text pairs from web archives: per archive one parquet file, and one tar of the images stored in it.

Every archive is a task with a commit mark, so a killed extraction resumes at the first archive without one. Per pair only 64
bits stay in memory, to find repeats; their counts are filled in by a second pass.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import Report, Runner, Shard, ShardBreak, shard_name
from curate.core.errors import InputError, OutputError
from curate.core.hashing import file_sha256
from curate.core.shards import Shards
from curate.core.timing import Activities
from curate.core.version import __version__
from curate.driver.attempts import Attempts
from curate.driver.progress import Progress, Quiet
from curate.sources.webarchive.image_index import ImageIndex
from curate.sources.webarchive.images import ArchiveImageWriter
from curate.sources.webarchive.pairs import PAIR_SCHEMA, Options, Reading, pair_key, pairs
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.paths import staged
from curate.storage.store import Store

_KIND = "extract"
_DAMAGED = "damaged:"  # begins the count of a reason
_FORMAT = 3  # of marks; an extraction with another one starts again
_TOTALS = ("pages", "images", "with_alt", "pairs", "different", "images_written")


@dataclass(frozen=True)
class Extract:
    """The task: writes the pairs of one archive."""

    store: Store
    run: str
    options: Options
    with_images: bool

    def __call__(self, shard: Shard) -> Report:
        """Write the archive's files and then its mark. A truncated archive keeps the pairs before the break."""
        activities = Activities()
        with activities.doing("extract"), staged(shard.url) as path, TemporaryDirectory(prefix="curate-") as folder:
            reading = Reading(path, self.options, images=ImageIndex() if self.with_images else None)
            first, error = Path(folder) / "first.parquet", None
            writer = ParquetWriter(first, PAIR_SCHEMA, "lz4")
            try:
                for batch in pairs(reading):
                    writer.write(pa.Table.from_batches([batch]))
            except ShardBreak as broken:
                error = f"{shard.url}: {broken}"
            writer.close()
            mark = self._write(shard, reading, first)._replace(error=error)
        self.store.commit(self.run, f"{_KIND}/{shard.index:06d}", mark)
        return Report(shard.index, mark.counts["pairs"], activities.seconds, {name: mark.counts[name] for name in _TOTALS}, error)

    def _write(self, shard: Shard, reading: Reading, first: Path) -> Mark:
        """Write the pairs with their counts, and the images; return the mark to commit."""
        name, tally = f"{shard.index:06d}", reading.tally
        different, files = 0, {}
        images = None
        if reading.images is not None:
            images = ArchiveImageWriter(reading, first.with_name("images.tar"), shard.index, _urls(first))
        with self.store.writing(f"pairs/{name}.parquet") as path:
            writer = ParquetWriter(path, PAIR_SCHEMA)
            for batch in pq.ParquetFile(first).iter_batches():
                counted = _counted(pa.Table.from_batches([batch]), reading.repeats)
                if images is not None:
                    images.add(counted, different)
                writer.write(counted)
                different += batch.num_rows
            writer.close()
            files[f"pairs/{name}.parquet"] = File(path.stat().st_size, file_sha256(path))
        written = 0 if images is None else images.close()
        if written:
            with self.store.writing(f"shards/{name}.tar") as path:
                shutil.copyfile(first.with_name("images.tar"), path)
                files[f"shards/{name}.tar"] = File(path.stat().st_size, file_sha256(path), written)
        counts = {"pages": tally.pages, "images": tally.images, "with_alt": tally.with_alt, "pairs": tally.pairs}
        counts |= {"different": different, "images_written": written}
        return Mark(files, counts | {f"{_DAMAGED}{reason}": count for reason, count in tally.damaged.items()})


def _urls(pairs: Path) -> Iterator[str]:
    for batch in pq.ParquetFile(pairs).iter_batches(columns=["url"]):
        yield from batch["url"].to_pylist()


def _counted(table: pa.Table, repeats: dict[int, int]) -> pa.Table:
    if not repeats:
        return table
    keys = map(pair_key, table["url"].to_pylist(), table["text"].to_pylist())
    counts = pa.array([1 + repeats.get(key, 0) for key in keys], pa.int32())
    return table.set_column(PAIR_SCHEMA.get_field_index("count"), PAIR_SCHEMA.field("count"), counts)


@dataclass(frozen=True)
class Extracted:
    """What an extraction did: one entry per archive in `archives`, in order; those given up (archive, reason) in `failed`."""

    out: str
    state: str = "done"  # done, or nothing to do
    archives: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def totals(self) -> dict[str, int]:
        """Return the sums over all archives."""
        return {name: sum(one[name] for one in self.archives) for name in _TOTALS}

    def damaged(self) -> dict[str, int]:
        """Return the number of damaged records by reason."""
        found: dict[str, int] = {}
        for one in self.archives:
            for reason, count in one["damaged"].items():
                found[reason] = found.get(reason, 0) + count
        return dict(sorted(found.items()))

    def cut_short(self) -> list[dict[str, str]]:
        """Return the archives that could not be read to the end: archive, reason."""
        return [{"archive": one["archive"], "reason": one["error"]} for one in self.archives if one["error"]]


@dataclass(frozen=True)
class Extraction:
    """One run over archives into OUT."""

    shards: Shards
    store: Store
    runner: Runner
    options: Options = field(default_factory=Options)
    with_images: bool = False
    progress: Progress = field(default_factory=Quiet)

    def run(self) -> Extracted:
        """Do what is missing. Raises InputError for an input that is no web archive, OutputError when another run holds OUT."""
        if other := next((shard for shard in self.shards if shard.kind != "archive"), None):
            raise InputError(f"{other.url}: not a web archive; extract reads .warc, .wat and .arc, also packed")
        with self.store.locked() as store:
            if store.storage.size("manifest.json") is not None:
                raise OutputError(f"{store.storage.root} is an output of curate run; choose another --out")
            return replace(self, store=store)._complete()

    def _complete(self) -> Extracted:
        key, before = self.key(), self.store.read_json("extract.json")
        if before is not None and before.get("run") == key and not before["failed"]:
            return Extracted(self.store.storage.root, "nothing to do", before["archives"])
        self._clear(key)
        done = self._done(key)
        missing = [shard for shard in self.shards if shard.index not in done]
        self.progress.start("extract", len(missing))
        attempts = Attempts(self.store, self.runner, self.progress)
        attempts.run(Extract(self.store, key, self.options, self.with_images), missing)
        return self._conclude(key, attempts)

    def key(self) -> str:
        """Return the name of this output: a hash of input, options and code version."""
        described = json.dumps([__version__, _FORMAT, *astuple(self.options), self.with_images, self.shards.digest])
        return xxhash.xxh3_64_hexdigest(described.encode())

    def _clear(self, key: str) -> None:
        """Remove the output of another input or options, and partial files of a killed extraction."""
        storage = self.store.storage
        marks = storage.folders("marks")
        if any(name != key for name in marks):
            storage.remove_folder("pairs")
        self.store.clear_outputs(key)
        self.store.sweep()
        storage.remove(["extract.json"])
        storage.remove([f"pairs/{found.name}" for found in storage.listing("pairs") if found.name.startswith(".")])

    def _done(self, key: str) -> set[int]:
        """Return the indexes of the archives whose mark and pairs exist."""
        there = {found.name.removesuffix(".parquet") for found in self.store.storage.listing("pairs")}
        return {int(name) for name in self.store.marked(key, _KIND) if name in there}

    def _conclude(self, key: str, attempts: Attempts) -> Extracted:
        """Write extract.json, whose presence means done, from the marks in order."""
        failed = sorted((failure.described("archive") for failure in attempts.failures), key=lambda one: one["archive"])
        outcome = Extracted(self.store.storage.root, "done", list(self._archives(key)), failed)
        described = {"run": key, "version": __version__, "surrounding": self.options.surrounding, **outcome.totals()}
        described |= {"damaged": outcome.damaged(), "archives": outcome.archives, "failed": outcome.failed}
        self.store.write_json("extract.json", described)
        return outcome

    def _archives(self, key: str) -> Iterator[dict[str, Any]]:
        done = sorted(self._done(key))
        marks = self.store.marks(key, (f"{_KIND}/{index:06d}" for index in done))
        for index, (_, mark) in zip(done, marks, strict=True):
            if mark is not None:
                yield _archive(self.shards[index], mark)


def _archive(shard: Shard, mark: Mark) -> dict[str, Any]:
    """Return an archive's entry in extract.json."""
    files = {name: file.sha256 for name, file in mark.files.items()}
    damaged = {name.removeprefix(_DAMAGED): count for name, count in mark.counts.items() if name.startswith(_DAMAGED)}
    counts = {name: mark.counts[name] for name in _TOTALS}
    return {"archive": shard_name(shard), **counts, "files": files, "damaged": damaged, "error": mark.error}
