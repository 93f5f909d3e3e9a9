"""Checks the output of a run: checksums, sizes, the index, and that every image decodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import IMAGE_ROWS, Needs, Runner, TaskDied
from curate.core.hashing import file_sha256
from curate.stages.decode import DecodeStage
from curate.stages.header import HeaderStage
from curate.storage.backend import Storage
from curate.storage.file_lists import SIZES, listed, unlisted
from curate.storage.marks import File
from curate.storage.paths import opened
from curate.storage.samples import SampleReader, index_beside, open_samples

_INDEX = ["key", "offset", "size", "sha256"]
"""Columns of the index that are read."""


@dataclass(frozen=True)
class Checksum:
    """A file of OUT and its sha256 in the manifest."""

    name: str
    sha256: str


@dataclass(frozen=True)
class CheckFile:
    """Task: compares a file with its checksum."""

    out: Storage

    def __call__(self, file: Checksum) -> list[str]:
        """Return the errors, one per line."""
        try:
            with self.out.reading(file.name) as path:
                same = file_sha256(path) == file.sha256
        except FileNotFoundError:
            same = False
        return [] if same else [f"{file.name}: is missing or differs from the manifest's sha256"]


@dataclass(frozen=True)
class Tar:
    """A file of samples to check, with its entry in the manifest."""

    name: str
    expected: File


@dataclass(frozen=True)
class CheckTar:
    """Task: compares a file of samples with its checksums and decodes every image in it; a remote one is copied here first."""

    out: Storage
    tolerated: tuple[str, ...] = ()

    def __call__(self, tar: Tar) -> list[str]:
        """Return the errors, one per line."""
        with ExitStack() as held:
            try:
                path = held.enter_context(self.out.reading(f"shards/{tar.name}"))
            except FileNotFoundError:
                return [f"{tar.name}: is missing"]
            return [f"{tar.name}: {line}" for line in self._wrong(path, tar)]

    def _wrong(self, path: Path, tar: Tar) -> Iterator[str]:
        size, expected = path.stat().st_size, tar.expected
        if size != expected.bytes:
            yield f"has {size} bytes, the manifest says {expected.bytes}"
        if file_sha256(path) != expected.sha256:
            yield "sha256 differs from the manifest's"
        rows = pq.read_table(opened(self.out.url(index_beside(f"shards/{tar.name}"))), columns=_INDEX)
        if rows.num_rows != expected.samples:
            yield f"the index has {rows.num_rows} samples, the manifest {expected.samples}"
        try:
            with open_samples(path, tar.name) as reader:
                yield from self._images(reader, rows)
        except (pa.ArrowException, OSError) as error:
            yield f"cannot be read: {str(error).partition(chr(10))[0]}"

    def _images(self, reader: SampleReader, rows: pa.Table) -> Iterator[str]:
        header, decode = HeaderStage(), DecodeStage()
        for batch in rows.to_batches(IMAGE_ROWS):
            images = []
            for row in batch.to_pylist():
                images.append(reader.image(row["offset"], row["size"]))
                if hashlib.sha256(images[-1]).hexdigest() != row["sha256"]:
                    yield f"{row['key']}: the bytes at its place are not its image"
            columns = [pa.array(range(len(images)), pa.int64()), pa.array(images, pa.binary())]
            found = decode(header(pa.RecordBatch.from_arrays(columns, names=["row", "image"])))["decoding"].to_pylist()
            for key, state in zip(batch["key"].to_pylist(), found, strict=True):
                if state != "ok" and not set(str(state).removeprefix("damaged: ").split("+")) <= set(self.tolerated):
                    yield f"{key}: does not decode: {state}"


def verify(out: Storage, manifest: dict[str, Any], runner: Runner) -> list[str]:
    """Return all errors in OUT, one per line; empty if there are none. Raises OSError."""
    lists = [Checksum(one["list"], one["sha256"]) for one in manifest["files"].values()]
    wrong = [line for file in lists for line in CheckFile(out)(file)]
    if wrong:  # nothing can be compared with a list that is damaged itself
        return wrong
    if _sizes(out) != {name: tar.samples for name, tar in listed(out, "shards")}:
        wrong.append(f"{SIZES}: differs from the manifest")
    wrong += [f"{name}: is not in the manifest" for name in (*unlisted(out, "shards"), *out.folders("shards"))]
    files = (Checksum(f"{folder}/{n}", file.sha256 or "") for folder in ("decisions", "index") for n, file in listed(out, folder))
    tars = (Tar(name, expected) for name, expected in listed(out, "shards"))
    tolerated = tuple(manifest["recipe"]["filters"]["unreadable"]["tolerate"])
    answers = chain(runner.map(CheckFile(out), files, Needs()), runner.map(CheckTar(out, tolerated), tars, Needs()))
    for answer in answers:
        wrong += [f"{answer.item.name}: {answer.reason}"] if isinstance(answer, TaskDied) else answer
    return sorted(wrong + _keys(out, manifest))


def _sizes(out: Storage) -> Any:
    try:
        return json.loads(out.read(SIZES) or b"null")
    except ValueError:
        return None


def _keys(out: Storage, manifest: dict[str, Any]) -> list[str]:
    """Check that decisions and index have the same samples, each once."""
    try:
        tables = [pq.read_table(opened(out.url(f"index/{name}")), columns=["key"]) for name, _ in listed(out, "index")]
    except (OSError, pa.ArrowException):
        return []  # reported by the checksums
    keys = pa.concat_tables(tables)["key"] if tables else pa.chunked_array([], pa.string())
    wrong = []
    if len(pc.unique(keys)) != len(keys):
        wrong.append("index: a key occurs twice")
    if len(keys) != manifest["kept"]:
        wrong.append(f"index: names {len(keys)} samples, the decisions keep {manifest['kept']}")
    return wrong
