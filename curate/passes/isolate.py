"""Which images of a shard kill or hang their decoder: sought after a worker died, in processes of their own with limits.

A child decodes the images of the shard one after the other and notes which one is in. When it dies, a second child begins
with that one: if it dies there too the image is a culprit, whatever else may go on on the machine, and a third goes on behind
it. Nothing else of the shard's work is repeated, and no model is loaded.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from curate.core import watchdog
from curate.core.contracts import IMAGE_ROWS, Batch, Report, Shard, Stage
from curate.fetch.image_log import base_batches, open_images
from curate.images.picture import DecodeRequest
from curate.images.resize import resized_watched
from curate.images.thumbnails import thumbnail
from curate.stages.decode import DecodeStage
from curate.storage.store import Store

MEMORY = 4 << 30
"""Address space, in bytes, that a child may use beyond what it starts with."""

_OUT_OF_MEMORY = 137  # exit code of a child in which memory ran out

_MAX_CRASHING_ROWS = 1000  # images of one shard that may kill their decoder before the shard itself is given up


@dataclass(frozen=True)
class FindCrashes:
    """The task: records the images of a scanned shard that kill or hang their decoder."""

    store: Store
    base: str  # of the shard's base facts
    decode: DecodeStage
    sides: tuple[int, ...] = ()  # of the pictures that models want
    seconds: float = watchdog.ROW_SECONDS
    others: tuple[Stage, ...] = ()  # beside the decoder, that read the bytes of images

    def __call__(self, shard: Shard) -> Report:
        """Look through one shard; the report counts the crashing_rows that were not known before."""
        base = self.store.facts(self.base, shard.fingerprint)
        known = crashing_rows(self.store, shard)
        if base is None or len(known) >= _MAX_CRASHING_ROWS:
            return Report(shard.index, 0, counts={"crashing_rows": 0})
        with TemporaryDirectory(prefix="curate-") as folder, self.store.storage.reading(base) as path:
            found = self._found(_Child(path, shard, self, Path(folder) / "row"), known)
        if found:
            self.store.write_json(_name(shard), {str(row): reason for row, reason in {**known, **found}.items()})
        return Report(shard.index, 0, counts={"crashing_rows": len(found)})

    def _found(self, child: _Child, known: dict[int, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        start = -1  # before all of them: also the first row must kill two children
        while len(known) + len(found) < _MAX_CRASHING_ROWS:
            exitcode = child.look(start, frozenset({*known, *found}))
            row = watchdog.inside(child.note) if exitcode else None
            if row is None:  # all is well, or it died of something else
                break
            if row == start:
                found[row] = "timeout" if exitcode == watchdog.EXITCODE else "decoder_crash"
            start = row
        return found


def crashing_rows(store: Store, shard: Shard) -> dict[int, str]:
    """Return the rows of a shard that are known to kill or hang their decoder, and which of both."""
    found = store.read_json(_name(shard)) or {}
    return {int(row): str(reason) for row, reason in found.items()}


def _name(shard: Shard) -> str:
    return f"facts/crashing_rows/{shard.fingerprint}.json"


@dataclass(frozen=True)
class _Child:
    """A process that decodes the images of a shard from some row on, and notes in a file which one is in."""

    base: Path
    shard: Shard
    hunt: FindCrashes
    note: Path

    def look(self, start: int, skipped: frozenset[int]) -> int:
        """Return the exit code."""
        process = multiprocessing.get_context("spawn").Process(target=self._run, args=(start, skipped))
        process.start()
        process.join()
        return process.exitcode or 0

    def _run(self, start: int, skipped: frozenset[int]) -> None:
        _limit()
        with open_images(self.hunt.store, self.shard) as opened, watchdog.noting(self.note, self.hunt.seconds):
            for facts in base_batches(opened, self.base, IMAGE_ROWS):
                wanted = pc.greater_equal(facts["row"], start)
                wanted = pc.and_(wanted, pc.invert(pc.is_in(facts["row"], value_set=pa.array(list(skipped), pa.int64()))))
                facts = facts.filter(wanted)
                where = pa.Table.from_batches([facts.select(["row", "offset", "bytes"])])
                for place, image in enumerate(opened.images(where)):
                    self._decode(facts.slice(place, 1), image or b"")

    def _decode(self, facts: Batch, data: bytes) -> None:
        """Decode one image in every way in which the run may decode it."""
        row, decode = facts["row"][0].as_py(), self.hunt.decode
        try:
            if facts["header"][0].as_py() == "ok":
                seen = decode(facts.append_column("image", pa.array([data], pa.binary())))
                for stage in self.hunt.others:
                    if set(stage.reads) <= set(seen.schema.names):
                        stage(seen)
                for side in self.hunt.sides:
                    form = facts["format"][0].as_py()
                    resized_watched(row, DecodeRequest(data, form, rgb=True, side=side, max_bytes=decode.max_bytes))
            if data:
                with watchdog.row(row):
                    thumbnail(data)
        except MemoryError:
            with watchdog.row(row):
                os._exit(_OUT_OF_MEMORY)


def _limit() -> None:
    """Bound the memory of this process, on systems that can: those with resource and /proc."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
