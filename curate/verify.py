"""Checks what a run wrote: sums, sizes, the index, and that every image decodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.contracts import IMAGE_ROWS, Needs, Runner, TaskDied
from curate.digest import file_sha256
from curate.stages.decode import DecodeStage
from curate.stages.header import HeaderStage
from curate.store import read_json


@dataclass(frozen=True)
class Tar:
    """One tar to check, with what the manifest says of it and its rows of the index."""

    path: Path
    expected: dict[str, Any]
    index: Path


@dataclass(frozen=True)
class CheckTar:
    """The task: compares a tar with its sums and decodes every image in it."""

    tolerated: tuple[str, ...] = ()

    def __call__(self, tar: Tar) -> list[str]:
        """Return what is wrong, a line each."""
        name = tar.path.name
        if not tar.path.is_file():
            return [f"{name}: is missing"]
        wrong = []
        if tar.path.stat().st_size != tar.expected["bytes"]:
            wrong.append(f"{name}: has {tar.path.stat().st_size} bytes, the manifest says {tar.expected['bytes']}")
        if file_sha256(tar.path) != tar.expected["sha256"]:
            wrong.append(f"{name}: sha256 differs from the manifest's")
        rows = pq.read_table(tar.index, filters=[("shard", "==", name)])
        if rows.num_rows != tar.expected["samples"]:
            wrong.append(f"{name}: the index has {rows.num_rows} samples, the manifest {tar.expected['samples']}")
        return wrong + [f"{name}: {line}" for line in self._images(tar.path, rows)]

    def _images(self, path: Path, rows: pa.Table) -> Iterator[str]:
        header, decode = HeaderStage(), DecodeStage()
        with path.open("rb") as file:
            for batch in rows.to_batches(IMAGE_ROWS):
                images = []
                for row in batch.to_pylist():
                    file.seek(row["offset"])
                    images.append(file.read(row["size"]))
                    if hashlib.sha256(images[-1]).hexdigest() != row["sha256"]:
                        yield f"{row['key']}: the bytes at its place are not its image"
                columns = [pa.array(range(len(images)), pa.int64()), pa.array(images, pa.binary())]
                found = decode(header(pa.RecordBatch.from_arrays(columns, names=["row", "image"])))["decoding"].to_pylist()
                for key, state in zip(batch["key"].to_pylist(), found, strict=True):
                    if state != "ok" and not set(str(state).removeprefix("damaged: ").split("+")) <= set(self.tolerated):
                        yield f"{key}: does not decode: {state}"


def verify(out: Path, manifest: dict[str, Any], runner: Runner) -> list[str]:
    """Return everything that is wrong with OUT, a line each; empty when all is well."""
    wrong = []
    if read_json(out / "sizes.json") != {name: tar["samples"] for name, tar in manifest["shards"].items()}:
        wrong.append("sizes.json: differs from the manifest")
    for folder in ("decisions", "index"):
        for name, digest in manifest[folder].items():
            path = out / folder / name
            if not path.is_file() or file_sha256(path) != digest:
                wrong.append(f"{folder}/{name}: is missing or differs from the manifest's sha256")
    strays = {path.name for path in (out / "shards").glob("*")} - set(manifest["shards"])
    wrong += [f"{name}: is not in the manifest" for name in sorted(strays)]
    tolerated = tuple(manifest["recipe"]["filters"]["unreadable"]["tolerate"])
    tars = [Tar(out / "shards" / n, tar, out / "index" / f"{n[:5]}.parquet") for n, tar in sorted(manifest["shards"].items())]
    for answer in runner.map(CheckTar(tolerated), tars, Needs()):
        wrong += [f"{answer.item.path.name}: {answer.reason}"] if isinstance(answer, TaskDied) else answer
    return sorted(wrong + _keys(out, manifest))


def _keys(out: Path, manifest: dict[str, Any]) -> list[str]:
    """Check that decisions and index name the same samples, each once."""
    try:
        tables = [pq.read_table(out / "index" / name, columns=["key"]) for name in sorted(manifest["index"])]
    except (OSError, pa.ArrowException):
        return []  # the sums have told
    keys = pa.concat_tables(tables)["key"] if tables else pa.chunked_array([], pa.string())
    wrong = []
    if len(pc.unique(keys)) != len(keys):
        wrong.append("index: a key stands twice")
    if len(keys) != manifest["kept"]:
        wrong.append(f"index: names {len(keys)} samples, the decisions keep {manifest['kept']}")
    return wrong
