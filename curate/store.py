"""The output: facts and marks, who may write, and what a kill leaves behind.

Data is written under a name that carries the attempt; then the mark, which names it and whose content decides: a listing
only finds marks. Facts are keyed by provider (code version, parameters) and shard fingerprint, never by a threshold. Tars,
decisions and thumbnails have the names that their readers know: a file appears whole, and every attempt writes the same bytes.
"""

from __future__ import annotations

import fcntl
import json
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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.contracts import ROW_GROUP, PartialCounts
from curate.errors import OutputError
from curate.lease import BEAT_SECONDS, FOLDER, Lease, superseded
from curate.storage import Disk, Storage

OUTPUTS = ("shards", "index", "decisions", "thumbs")
"""Folders that one recipe's run fills; facts and counts outlive it."""

FETCHED, FETCHED_TARS = "fetch-v1", "fetched"
"""The provider of what came of fetching, and the folder of the images themselves (see curate.fetched)."""

_NAME = re.compile(r"([0-9a-f]{16})\.(?:([0-9a-f]{8})\.(?:parquet|tar)|json)")
"""Of a file of facts: the data of an attempt, or a mark; both name the shard by its fingerprint."""

_AT_ONCE = 32  # marks that are read at once


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the name never holds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_bytes(_json(content))
    os.replace(partial, path)


def read_json(path: Path) -> Any | None:
    """Return the JSON of a file, or None when it is not there or not whole."""
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _parsed(data: bytes | None) -> Any | None:
    try:
        return None if data is None else json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


class ParquetWriter:
    """The one way parquet is written: fixed row groups, no dictionaries, no times. Rows arrive in batches of any size.

    Bytes depend only on the rows: batches are cut and joined to groups of ROW_GROUP before they are written.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: Literal["zstd", "lz4"] = "zstd") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.schema = schema
        level = 1 if compression == "zstd" else None
        # zstd alone makes smaller files than behind a dictionary, and they are read three times as fast
        options = {"use_dictionary": False, "store_schema": False, "compression_level": level}
        self._writer = pq.ParquetWriter(path, schema, compression=compression, **options)
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows; columns are taken by name."""
        table = table.select(self.schema.names)
        self._waiting.append(table if table.schema.equals(self.schema) else table.cast(self.schema))
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            joined = pa.concat_tables(self._waiting)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                self._writer.write_table(joined.slice(start, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            rest = joined.slice(whole)
            self._waiting, self._rows = ([rest] if rest.num_rows else []), rest.num_rows

    def close(self) -> None:
        """Write the last, shorter group and the footer."""
        if self._rows or not self._waiting:
            rest = pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()
            self._writer.write_table(rest.combine_chunks(), row_group_size=ROW_GROUP)
        self._writer.close()


@dataclass(frozen=True)
class Committed:
    """What is committed of one provider, from a listing: an entry for each shard that has a mark and data, by fingerprint."""

    prints: npt.NDArray[np.uint64]  # sorted
    attempts: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]

    def holds(self, prints: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return for each fingerprint whether its shard is here."""
        where = np.searchsorted(self.prints, prints)
        found = np.zeros(len(prints), np.bool_)
        if len(self.prints):
            np.equal(self.prints[np.minimum(where, len(self.prints) - 1)], prints, out=found)
        return found

    def files(self, folder: str, prints: npt.NDArray[np.uint64], indexes: npt.NDArray[np.int64]) -> PartialCounts:
        """Return the files of some shards (fingerprint, index); those that are not here are left out."""
        here = self.holds(prints)
        where = np.searchsorted(self.prints, prints[here])
        found = zip(prints[here].tolist(), self.attempts[where].tolist(), strict=True)
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
        return None if mark is None else f"facts/{key}/{mark['file']}"

    def mark_of_facts(self, key: str, fingerprint: str) -> dict[str, Any] | None:
        """Return what was committed beside the facts, or None when there are none."""
        mark: dict[str, Any] | None = self.read_json(f"facts/{key}/{fingerprint}.json")
        if mark is None or self.storage.size(f"facts/{key}/{mark['file']}") != mark["size"]:
            return None
        return mark

    @contextmanager
    def writing_facts(self, key: str, fingerprint: str, note: dict[str, Any] | None = None) -> Iterator[Path]:
        """Give the path to write to; commits it when the block ends, removes it when it raises. `note` joins the mark."""
        file = data_name(fingerprint, uuid.uuid4().hex[:8])
        with self.storage.writing(f"facts/{key}/{file}") as path:
            yield path
            size = path.stat().st_size
        old = self.facts(key, fingerprint)
        self.write_json(f"facts/{key}/{fingerprint}.json", {"file": file, "size": size, **(note or {})})
        if old is not None:
            self.storage.remove([old])

    def committed(self, key: str) -> Committed:
        """Return what is committed of one provider. Reads a mark only where there are several attempts."""
        marks, prints, attempts, sizes = array("Q"), array("Q"), array("L"), array("q")
        for found in self.storage.listing(f"facts/{key}"):
            if (name := _NAME.fullmatch(found.name)) is None:
                continue
            if name[2] is None:
                marks.append(int(name[1], 16))
            else:
                prints.append(int(name[1], 16))
                attempts.append(int(name[2], 16))
                sizes.append(found.size)
        ours = np.array(prints, np.uint64)
        order = np.argsort(ours, kind="stable")
        order = order[np.isin(ours[order], np.array(marks, np.uint64))]
        every = ours[order], np.array(attempts, np.uint32)[order], np.array(sizes, np.int64)[order]
        return self._decided(key, Committed(*every))

    def _decided(self, key: str, found: Committed) -> Committed:
        """Keep of several attempts the one that the mark names."""
        same = np.zeros(len(found.prints), np.bool_)
        same[1:] = found.prints[1:] == found.prints[:-1]
        same[:-1] |= same[1:]
        keep = ~same
        for place in np.flatnonzero(same).tolist():
            fingerprint = f"{int(found.prints[place]):016x}"
            mark = self.read_json(f"facts/{key}/{fingerprint}.json") or {}
            keep[place] = mark.get("file") == data_name(fingerprint, f"{int(found.attempts[place]):08x}")
        return Committed(found.prints[keep], found.attempts[keep], found.sizes[keep])

    # Marks -----------------------------------------------------------------------------------------------------------

    def mark(self, run: str, name: str) -> dict[str, Any] | None:
        """Return the commit mark of a task of a run, or None."""
        found: dict[str, Any] | None = self.read_json(f"marks/{run}/{name}.json")
        return found

    def commit(self, run: str, name: str, content: dict[str, Any]) -> None:
        """Write a commit mark."""
        self._fence()
        self.write_json(f"marks/{run}/{name}.json", content)

    def marked(self, run: str, folder: str) -> Iterator[str]:
        """Yield the names of a run's marks of one kind, in no order."""
        for found in self.storage.listing(f"marks/{run}/{folder}"):
            if found.name.endswith(".json") and not found.name.startswith("."):
                yield found.name.removesuffix(".json")

    def marks(self, run: str, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield names and contents of many marks, in order, several read at once where each costs a request."""
        if isinstance(self.storage, Disk):
            yield from ((name, self.mark(run, name)) for name in names)
            return
        stream = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while some := list(islice(stream, 8 * _AT_ONCE)):
                yield from zip(some, threads.map(lambda name: self.mark(run, name), some), strict=True)

    def unmark(self, run: str, names: Iterable[str]) -> None:
        """Take marks back, before what they name is made again."""
        self.storage.remove([f"marks/{run}/{name}.json" for name in names])

    # Who may write, and what a kill left -----------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[Store]:
        """Hold OUT for this process and give the store to write with. Raises OutputError when another holds it.

        On a disk the lock is gone with the process, however it ends; on an object store a lease runs out.
        """
        if isinstance(self.storage, Disk):
            with _flocked(Path(self.storage.root)):
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
        self.storage.remove(["manifest.json", "report.html", "sizes.json"])
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
        for key in self.storage.folders("facts"):
            if key != "culprits":
                self._sweep_facts(key)
        runs = [f"marks/{run}" for run in self.storage.folders("marks")]
        kinds = [f"{run}/{kind}" for run in runs for kind in self.storage.folders(run)]
        counts = [f"counts/{name}" for name in self.storage.folders("counts")]
        for folder in ("facts/culprits", *OUTPUTS, *kinds, *counts):
            self.storage.remove(f"{folder}/{found.name}" for found in self.storage.listing(folder) if found.name.startswith("."))
        for folder in counts:
            if self.read_json(f"{folder}/counts.json") is None:
                self.storage.remove_folder(folder)
        top = [found.name for found in self.storage.listing("") if found.name.startswith(".")]
        self.storage.remove(name for name in top if name.count(".") > 1)  # the lock has no second dot
        self.storage.remove_folder("work")

    def _sweep_facts(self, key: str) -> None:
        keep = self.committed(key)
        named = dict(zip(keep.prints.tolist(), keep.attempts.tolist(), strict=True))
        gone = []
        for folder in (f"facts/{key}", *([FETCHED_TARS] if key == FETCHED else [])):
            for found in self.storage.listing(folder):
                name = _NAME.fullmatch(found.name)
                if name is None or (name[2] is not None and named.get(int(name[1], 16)) != int(name[2], 16)):
                    gone.append(f"{folder}/{found.name}")
        self.storage.remove(gone)


def data_name(fingerprint: str, attempt: str) -> str:
    """Return the name of the facts that an attempt writes."""
    return f"{fingerprint}.{attempt}.parquet"


@contextmanager
def _flocked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{out} is not a folder; choose an empty or new one") from None
    if any(out.iterdir()) and not (out / ".lock").exists():
        raise OutputError(f"{out} is not empty and not an output of curate; choose an empty or new folder")
    with (out / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise OutputError(f"{out} is in use by {holder}; wait for it, or choose another --out") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
