"""The files of samples of a block (tars or parquet) and their indexes: written, numbered or staged, and read again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP
from curate.core.hashing import file_sha256
from curate.passes.pictures import NOTES, Picture
from curate.planning.plan import Plan
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.samples import (
    Kind,
    Packed,
    ParquetKind,
    SampleReader,
    SampleWriter,
    TarKind,
    index_beside,
    open_samples,
    sample_files,
)
from curate.storage.store import Store

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("original_key", pa.string()),
        ("offset", pa.int64()),  # of the image's bytes in the tar; in a parquet file, its row
        ("size", pa.int64()),
        ("sha256", pa.string()),  # of the image's bytes in the tar
    ]
)

STAGED = "staged"
"""The folder of files that wait for their places: every block has its own, as if it were an output."""


@dataclass(frozen=True)
class Sample:
    """One sample as it goes into a file, and what the index says of it."""

    packed: Packed
    original_key: str
    sha256: str  # of the image
    mode: str | None = None  # of an image that loaders may show otherwise than the models saw it


def kind_of(plan: Plan) -> Kind:
    """Return the kind of files that a plan's samples go into."""
    if plan.recipe.output.kind == "tars":
        return TarKind()
    scores = {step.name: step.rule.evidence for step in plan.steps if step.rule.per_text}
    return ParquetKind.of(scores, {step.name: step.rule.evidence for step in plan.steps if step.name not in scores})


class PackedSamples:
    """The images of the samples that a block held before, by key: as they are in its files."""

    def __init__(self, store: Store, mark: Mark | None) -> None:
        self._store, self._held = store, ExitStack()
        self._paths: dict[str, Path] = {}
        self._opened: tuple[str, SampleReader] | None = None
        self._places: dict[str, tuple[str, int, int, str]] = {}
        for name in sample_files(() if mark is None else mark.files):
            self._read(name)

    def _read(self, name: str) -> None:
        """Enter the samples of a file. One that is not there, since it was being replaced, has none."""
        try:
            with self._store.storage.reading(index_beside(name)) as path:
                rows = pq.read_table(path, columns=["key", "offset", "size", "sha256"]).to_pylist()
            self._paths[name] = self._held.enter_context(self._store.storage.reading(name))
        except FileNotFoundError:
            return
        self._places |= {row["key"]: (name, row["offset"], row["size"], row["sha256"]) for row in rows}

    def __enter__(self) -> PackedSamples:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._close()
        self._held.__exit__(*raised)

    def __contains__(self, key: str) -> bool:
        """Return whether a sample was in the block."""
        return key in self._places

    def image(self, key: str) -> Picture:
        """Return the image of a sample that was in the block. Raises RuntimeError when its file is damaged."""
        name, place, size, digest = self._places[key]
        reader = self._reader(name)
        image = reader.image(place, size)
        if hashlib.sha256(image).hexdigest() != digest:
            raise RuntimeError(f"{name} is damaged: {key} is not what its index says")
        told = json.loads(reader.about(place, size))  # what was noted when the image was written, which its bytes do not say
        return Picture(image, digest, {note: told[note] for note in NOTES if note in told})

    def _reader(self, name: str) -> SampleReader:
        """Return a file's reader. One is open at a time, for it may hold much, and samples come in order."""
        if self._opened is None or self._opened[0] != name:
            self._close()
            self._opened = name, open_samples(self._paths[name], name)
        return self._opened[1]

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[1].__exit__()
        self._opened = None


@dataclass(frozen=True)
class Names:
    """Where a block's files go: from which number on, and in which folder of OUT."""

    first: int
    folder: str  # empty, or with a slash at its end

    def samples(self, number: int, kind: Kind) -> str:
        """Return the name of the file of samples with this number in the block."""
        return f"{self.folder}shards/{self.first + number:05d}{kind.suffix}"


class SampleFiles:
    """Writes samples into files of `size` and their index; both get their names when they are whole."""

    def __init__(self, store: Store, names: Names, size: int, kind: Kind) -> None:
        self._store, self._names, self._number, self._size, self._kind = store, names, 0, size, kind
        self._writer: SampleWriter | None = None
        self._held = ExitStack()
        self._in_file = 0
        self.samples = 0
        self.files: dict[str, File] = {}
        self.modes = Counter[str]()  # samples by mode, of those that have one

    def __enter__(self) -> SampleFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._held.__exit__(kind, value, trace)  # only an error leaves a file open

    def add(self, sample: Sample) -> None:
        """Write one sample and its row of the index."""
        writer = self._writer or self._open()
        place, packed = writer.add(sample.packed), sample.packed
        self._rows.append((packed.key, sample.original_key, place, len(packed.image), sample.sha256))
        if len(self._rows) >= ROW_GROUP:
            self._flush()
        self.samples += 1
        self.modes.update([sample.mode] if sample.mode else [])
        self._in_file += 1
        if self._in_file == self._size:
            self.close()

    def _open(self) -> SampleWriter:
        self._name = self._names.samples(self._number, self._kind)
        self._path = self._held.enter_context(self._store.writing(self._name))
        self._writer = self._held.enter_context(self._kind.writer(self._path))
        self._index_path = self._held.enter_context(self._store.writing(index_beside(self._name)))
        self._index = ParquetWriter(self._index_path, INDEX_SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        return self._writer

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)]
        self._index.write(pa.table(arrays, INDEX_SCHEMA))
        self._rows.clear()

    def close(self) -> None:
        """End the current file, if one is open."""
        if self._writer is None:
            return
        digest = self._writer.close()
        if self._rows:
            self._flush()
        self._index.close()
        index = File(self._index_path.stat().st_size, file_sha256(self._index_path), self._in_file)
        self.files[self._name] = File(self._path.stat().st_size, digest, self._in_file)
        self.files[index_beside(self._name)] = index
        self._held.close()
        self._writer, self._in_file = None, 0
        self._number += 1
