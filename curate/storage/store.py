"""The output: facts and marks, who may write, and what a killed run leaves behind.

Data is written under a name that contains the attempt, then the mark that names it. Only the mark's content counts: a listing
just finds marks. Facts are keyed by provider (code version, parameters) and shard fingerprint, never by a threshold. Tars,
decisions and thumbnails have the names that their readers know: a file appears whole, and every attempt writes the same bytes.
"""

from __future__ import annotations

import os
import re
import uuid
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.counting import PartialCounts
from curate.core.errors import InUse, OutputError
from curate.core.file_lock import try_lock
from curate.storage.backend import Disk, Storage
from curate.storage.json_files import _json, _parsed
from curate.storage.lease import BEAT_SECONDS, FOLDER, Lease, superseded
from curate.storage.marks import File, Mark, Note

OUTPUTS = ("shards", "index", "decisions", "thumbs")
"""Folders that one recipe's run fills; facts and counts outlive it."""

FETCHED, FETCHED_TARS = "fetch-v2", "fetched"
"""The provider of what came of fetching, and the folder of the images themselves (see curate.fetch.image_log)."""

_NAME = re.compile(r"([0-9a-f]{16})\.(?:([0-9a-f]{8})\.(?:parquet|tar)|json)")
"""Of a file of facts: the data of an attempt, or a mark; both name the shard by its fingerprint."""

_AT_ONCE = 32  # marks that are read at once
_OF_A_THREAD = 8  # marks that a thread reads one after the other: handing over costs as much as reading a short one


@dataclass(frozen=True)
class Committed:
    """What is committed of one provider, from a listing: an entry for each shard that has a mark and data, by fingerprint."""

    fingerprints: npt.NDArray[np.uint64]  # sorted
    attempts: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]

    def holds(self, fingerprints: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return for each fingerprint whether its shard is here."""
        where = np.searchsorted(self.fingerprints, fingerprints)
        found = np.zeros(len(fingerprints), np.bool_)
        if len(self.fingerprints):
            np.equal(self.fingerprints[np.minimum(where, len(self.fingerprints) - 1)], fingerprints, out=found)
        return found

    def files(self, folder: str, fingerprints: npt.NDArray[np.uint64], indexes: npt.NDArray[np.int64]) -> PartialCounts:
        """Return the files of some shards (fingerprint, index); those that are not here are left out."""
        here = self.holds(fingerprints)
        where = np.searchsorted(self.fingerprints, fingerprints[here])
        found = zip(fingerprints[here].tolist(), self.attempts[where].tolist(), strict=True)
        names = pa.array((data_name(f"{one:016x}", f"{attempt:08x}") for one, attempt in found), pa.string())
        return PartialCounts(folder, names, pa.array(indexes[here], pa.int64()), pa.array(self.sizes[where], pa.int64()))


@dataclass(frozen=True)
class Store:
    """Where a run keeps what it knows. Picklable; every worker makes its own connections."""

    storage: Storage
    epoch: int | None = None  # of the lease that this run holds, on object stores
    beat: float = BEAT_SECONDS

    def read_json(self, name: str) -> Any | None:
        """Return the JSON of a file, or None when it is not there or not whole."""
        return _parsed(self.storage.read(name))

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON."""
        self.storage.write(name, _json(content))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a local path to write an output to; it appears when the block ends, unless another run holds OUT by then."""
        with self.storage.writing(name) as path:
            yield path
            self._fence()

    def _fence(self) -> None:
        if self.epoch is not None and superseded(self.storage, self.epoch):
            raise OutputError(f"{self.storage.root} was taken over by another run")

    # Facts -----------------------------------------------------------------------------------------------------------

    def facts(self, key: str, fingerprint: str) -> str | None:
        """Return the name of the committed facts of one provider and shard, or None."""
        mark = self.mark_of_facts(key, fingerprint)
        return None if mark is None else next(iter(mark.files))

    def mark_of_facts(self, key: str, fingerprint: str) -> Mark | None:
        """Return the mark of the facts, which names one file, or None when there are none."""
        mark = self._read_mark(f"facts/{key}/{fingerprint}.json")
        if mark is None or any(self.storage.size(name) != file.bytes for name, file in mark.files.items()):
            return None
        return mark

    @contextmanager
    def writing_facts(self, key: str, fingerprint: str, note: Note | None = None, *, replace: bool = True) -> Iterator[Path]:
        """Give the path to write to; commits it when the block ends, removes it when it raises. `note` joins the mark.

        Without `replace`, facts stay that another run has committed meanwhile: its driver may have listed them already.
        """
        name = f"facts/{key}/{data_name(fingerprint, uuid.uuid4().hex[:8])}"
        with self.storage.writing(name) as path:
            yield path
            size = path.stat().st_size
        note, mark = note or Note(), f"facts/{key}/{fingerprint}.json"
        content = Mark({name: File(size)}, note.counts, note.error).to_json()
        if not replace and self.storage.create(mark, _json(content)):
            return
        old = self.facts(key, fingerprint)
        if replace or old is None:
            self.write_json(mark, content)
        if old is not None:
            self.storage.remove([old if replace else name])

    def forget_facts(self, key: str, fingerprint: str) -> None:
        """Remove the mark of a shard's facts, so that the next run computes them again."""
        self.storage.remove([f"facts/{key}/{fingerprint}.json"])

    def committed(self, key: str) -> Committed:
        """Return what is committed of one provider. Reads a mark only where there are several attempts."""
        marks, fingerprints, attempts, sizes = array("Q"), array("Q"), array("L"), array("q")
        for found in self.storage.listing(f"facts/{key}"):
            if (name := _NAME.fullmatch(found.name)) is None:
                continue
            if name[2] is None:
                marks.append(int(name[1], 16))
            else:
                fingerprints.append(int(name[1], 16))
                attempts.append(int(name[2], 16))
                sizes.append(found.size)
        ours = np.array(fingerprints, np.uint64)
        order = np.argsort(ours, kind="stable")
        order = order[np.isin(ours[order], np.array(marks, np.uint64))]
        every = ours[order], np.array(attempts, np.uint32)[order], np.array(sizes, np.int64)[order]
        return self._decided(key, Committed(*every))

    def _decided(self, key: str, found: Committed) -> Committed:
        """Keep of several attempts the one that the mark names."""
        same = np.zeros(len(found.fingerprints), np.bool_)
        same[1:] = found.fingerprints[1:] == found.fingerprints[:-1]
        same[:-1] |= same[1:]
        keep = ~same
        for place in np.flatnonzero(same).tolist():
            fingerprint = f"{int(found.fingerprints[place]):016x}"
            mark = self._read_mark(f"facts/{key}/{fingerprint}.json") or Mark()
            keep[place] = f"facts/{key}/{data_name(fingerprint, f'{int(found.attempts[place]):08x}')}" in mark.files
        return Committed(found.fingerprints[keep], found.attempts[keep], found.sizes[keep])

    # Marks -----------------------------------------------------------------------------------------------------------

    def mark(self, run: str, name: str) -> Mark | None:
        """Return the commit mark of a task of a run, or None."""
        return self._read_mark(f"marks/{run}/{name}.json")

    def _read_mark(self, name: str) -> Mark | None:
        """Return the mark in a file, or None when it is not there, not whole, or in another version's format."""
        try:
            return Mark.from_json(self.read_json(name))
        except ValueError:
            return None

    def commit(self, run: str, name: str, mark: Mark) -> None:
        """Write a commit mark. Raises OutputError when another run has taken over OUT."""
        self._fence()
        self.write_json(f"marks/{run}/{name}.json", mark.to_json())

    def marked(self, run: str, folder: str) -> Iterator[str]:
        """Yield the names of a run's marks of one kind, in no order."""
        for found in self.storage.listing(f"marks/{run}/{folder}"):
            if found.name.endswith(".json") and not found.name.startswith("."):
                yield found.name.removesuffix(".json")

    def marks(self, run: str, names: Iterable[str]) -> Iterator[tuple[str, Mark | None]]:
        """Yield names and contents of many marks, in order, several read at once where each costs a request."""
        if isinstance(self.storage.own, Disk):
            yield from ((name, self.mark(run, name)) for name in names)
            return
        stream = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while some := list(islice(stream, _AT_ONCE * _OF_A_THREAD)):
                parts = [some[at : at + _OF_A_THREAD] for at in range(0, len(some), _OF_A_THREAD)]
                for found in threads.map(lambda part: [(name, self.mark(run, name)) for name in part], parts):
                    yield from found

    def unmark(self, run: str, names: Iterable[str]) -> None:
        """Remove marks, before their outputs are made again."""
        self.storage.remove([f"marks/{run}/{name}.json" for name in names])

    # Who may write, and what a killed run left -------------------------------------------------------------------------

    def was_held(self) -> bool:
        """Return whether any process ever held OUT, so that `locked` makes no folder."""
        own = self.storage.own
        return own.size(".lock") is not None if isinstance(own, Disk) else any(own.listing(FOLDER))

    @contextmanager
    def locked(self) -> Iterator[Store]:
        """Hold OUT for this process and give the store to write with. Raises InUse when another holds it, OutputError.

        On a disk the lock is gone with the process, however it ends; on an object store a lease runs out.
        """
        if isinstance(self.storage.own, Disk):
            with _held(Path(self.storage.root)):
                yield self
            return
        try:
            if not any(self.storage.listing(FOLDER)) and (any(self.storage.listing("")) or self.storage.folders("")):
                raise OutputError(f"{self.storage.root} is not empty and not an output of curate; choose an empty or new folder")
            lease = Lease(self.storage, self.beat)
            lease.acquire()
        except OSError as error:  # no such bucket, no permission, no credentials
            raise OutputError(f"{self.storage.root} cannot be written: {error}") from None
        with lease:
            yield replace(self, epoch=lease.epoch)

    def clear_outputs(self, run: str) -> None:
        """Remove what another recipe or input left, so that two results never mix; facts stay."""
        self.storage.remove_folder("manifest")
        self.storage.remove(["manifest.json", "report.html", "shards/sizes.json", "shards/index.json"])
        found = self.storage.folders("marks")
        others = [name for name in found if name != run]
        if others or not found:
            for name in OUTPUTS:
                self.storage.remove_folder(name)
        for name in others:
            self.storage.remove_folder(f"marks/{name}")
        self.storage.write(f"marks/{run}/begun", b"")

    def sweep(self) -> None:
        """Remove attempts that a kill left without a mark. Only the holder of the lock may."""
        shared = self.storage.own is not self.storage  # other runs may be writing there: see curate gc
        for key in () if shared else self.storage.folders("facts"):
            self.storage.remove(name for name, _ in self.unmarked_facts(key))
        runs = [f"marks/{run}" for run in self.storage.folders("marks")]
        kinds = [f"{run}/{kind}" for run in runs for kind in self.storage.folders(run)]
        counts = [f"counts/{name}" for name in self.storage.folders("counts")]
        for folder in (*(() if shared else ("facts/crashing_rows",)), *OUTPUTS, *kinds, *counts):
            self.storage.remove(f"{folder}/{found.name}" for found in self.storage.listing(folder) if found.name.startswith("."))
        for folder in counts:
            if self.read_json(f"{folder}/counts.json") is None:
                self.storage.remove_folder(folder)
        top = [found.name for found in self.storage.listing("") if found.name.startswith(".")]
        self.storage.remove(name for name in top if name.count(".") > 1)  # the lock has no second dot
        self.storage.remove_folder("work")

    def unmarked_facts(self, key: str) -> Iterator[tuple[str, int]]:
        """Yield names and sizes of what attempts left of one provider's facts, and no mark names."""
        if key == "crashing_rows":
            return
        keep = self.committed(key)
        named = dict(zip(keep.fingerprints.tolist(), keep.attempts.tolist(), strict=True))
        for folder in (f"facts/{key}", *([FETCHED_TARS] if key == FETCHED else [])):
            for found in self.storage.listing(folder):
                name = _NAME.fullmatch(found.name)
                if name is None or (name[2] is not None and named.get(int(name[1], 16)) != int(name[2], 16)):
                    yield f"{folder}/{found.name}", found.size


def data_name(fingerprint: str, attempt: str) -> str:
    """Return the name of the facts that an attempt writes."""
    return f"{fingerprint}.{attempt}.parquet"


@contextmanager
def _held(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{out} is not a folder; choose an empty or new one") from None
    if any(out.iterdir()) and not (out / ".lock").exists():
        raise OutputError(f"{out} is not empty and not an output of curate; choose an empty or new folder")
    with (out / ".lock").open("a+") as file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InUse(str(out), holder)
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
