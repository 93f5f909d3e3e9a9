"""The tars of a block and their indexes: written, numbered or staged, and read again."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP
from curate.core.hashing import file_sha256
from curate.passes.pictures import NOTES, Picture
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store
from curate.storage.tar import member_header

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("original_key", pa.string()),
        ("offset", pa.int64()),  # of the image's bytes in the tar
        ("size", pa.int64()),
        ("sha256", pa.string()),  # of the image's bytes in the tar
    ]
)

STAGED = "staged"
"""The folder of tars that wait for their places: every block has its own, as if it were an output."""


@dataclass(frozen=True)
class Sample:
    """One sample as it goes into a tar."""

    key: str
    original_key: str
    extension: str
    image: bytes
    sha256: str  # of `image`
    sidecars: dict[str, bytes]
    mode: str | None = None  # of an image that loaders may show otherwise than the models saw it


def tar_name(number: int) -> str:
    """Return the name of a tar in shards/.

    >>> tar_name(12)
    '00012.tar'
    """
    return f"{number:05d}.tar"


def index_name(number: int) -> str:
    """Return the name of a tar's index in index/."""
    return f"{number:05d}.parquet"


def index_beside(tar: str) -> str:
    """Return the name of the index of a tar, both in OUT or staged."""
    return tar.replace("shards/", "index/").replace(".tar", ".parquet")


def tar_beside(index: str) -> str:
    """Return the name of the tar of an index."""
    return index.replace("index/", "shards/").replace(".parquet", ".tar")


class PackedSamples:
    """The images of the samples that a block held before, by key: as they are in its tars."""

    def __init__(self, store: Store, mark: Mark | None) -> None:
        self._store, self._held = store, ExitStack()
        self._tars: dict[str, BinaryIO] = {}
        self._places: dict[str, tuple[str, int, int, str]] = {}
        for name in sorted(() if mark is None else mark.files):
            if name.endswith(".parquet"):
                self._read(name, tar_beside(name))

    def _read(self, index: str, tar: str) -> None:
        """Enter the samples of a tar. One that is not there, since it was being replaced, has none."""
        try:
            with self._store.storage.reading(index) as path:
                rows = pq.read_table(path, columns=["key", "offset", "size", "sha256"]).to_pylist()
            self._tars[tar] = self._held.enter_context(self._held.enter_context(self._store.storage.reading(tar)).open("rb"))
        except FileNotFoundError:
            return
        self._places |= {row["key"]: (tar, row["offset"], row["size"], row["sha256"]) for row in rows}

    def __enter__(self) -> PackedSamples:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._held.__exit__(*raised)

    def __contains__(self, key: str) -> bool:
        """Return whether a sample was in the block."""
        return key in self._places

    def image(self, key: str) -> Picture:
        """Return the image of a sample that was in the block. Raises RuntimeError when its tar is damaged."""
        tar, offset, size, digest = self._places[key]
        self._tars[tar].seek(offset)
        image = self._tars[tar].read(size)
        if hashlib.sha256(image).hexdigest() != digest:
            raise RuntimeError(f"{tar} is damaged: {key} is not what its index says")
        return Picture(image, digest, self._notes(tar, offset + size))

    def _notes(self, tar: str, end: int) -> dict[str, str]:
        """Return what was noted when the image was written, which its bytes do not say: key.json comes behind it."""
        file = self._tars[tar]
        file.seek(end + -end % 512)
        about = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "surrogateescape")
        told = json.loads(file.read(about.size))
        return {name: told[name] for name in NOTES if name in told}


@dataclass(frozen=True)
class Names:
    """Where a block's tars go: from which number on, and in which folder of OUT."""

    first: int
    folder: str  # empty, or with a slash at its end

    def tar(self, number: int) -> str:
        return f"{self.folder}shards/{tar_name(self.first + number)}"

    def index(self, number: int) -> str:
        return f"{self.folder}index/{index_name(self.first + number)}"


class Tars:
    """Writes samples into tars of `size` and their index; both get their names when they are whole."""

    def __init__(self, store: Store, names: Names, size: int) -> None:
        self._store, self._names, self._number, self._size = store, names, 0, size
        self._file: BinaryIO | None = None
        self._held = ExitStack()
        self._in_tar = 0
        self.samples = 0
        self.files: dict[str, File] = {}
        self.modes = Counter[str]()  # samples by mode, of those that have one

    def __enter__(self) -> Tars:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._held.__exit__(kind, value, trace)  # only an error leaves a tar open

    def add(self, sample: Sample) -> None:
        """Write one sample and its row of the index."""
        if self._file is None:
            self._open()
        offset = self._offset + 512
        self._member(f"{sample.key}.{sample.extension}", sample.image)
        for extension, body in sample.sidecars.items():
            self._member(f"{sample.key}.{extension}", body)
        self._rows.append((sample.key, sample.original_key, offset, len(sample.image), sample.sha256))
        if len(self._rows) >= ROW_GROUP:
            self._flush()
        self.samples += 1
        self.modes.update([sample.mode] if sample.mode else [])
        self._in_tar += 1
        if self._in_tar == self._size:
            self.close()

    def _open(self) -> None:
        self._path = self._held.enter_context(self._store.writing(self._names.tar(self._number)))
        self._file = self._held.enter_context(self._path.open("wb", buffering=1 << 20))
        self._hash, self._offset = hashlib.sha256(), 0
        self._index_path = self._held.enter_context(self._store.writing(self._names.index(self._number)))
        self._index = ParquetWriter(self._index_path, INDEX_SCHEMA)
        self._rows: list[tuple[Any, ...]] = []

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)]
        self._index.write(pa.table(arrays, INDEX_SCHEMA))
        self._rows.clear()

    def _member(self, name: str, body: bytes) -> None:
        self._put(member_header(name, len(body)))
        self._put(body)
        self._put(bytes(-len(body) % 512))

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def close(self) -> None:
        """End the current tar, if one is open."""
        if self._file is None:
            return
        self._put(bytes(1024))
        if self._rows:
            self._flush()
        self._index.close()
        index = File(self._index_path.stat().st_size, file_sha256(self._index_path), self._in_tar)
        self._held.close()
        self.files[self._names.tar(self._number)] = File(self._offset, self._hash.hexdigest(), self._in_tar)
        self.files[self._names.index(self._number)] = index
        self._file, self._in_tar = None, 0
        self._number += 1
