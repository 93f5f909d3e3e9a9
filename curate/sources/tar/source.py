"""Tars as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from curate.core.contracts import Batch, Shard
from curate.core.errors import InputError
from curate.sources.fields import Reading, beside_images
from curate.sources.records import MAX_IMAGE, batches
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tar.members import BUFFER
from curate.sources.tar.records import CAPTIONS, field_names, records
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass
class TarShard:
    """A tar that is open for reading: records from a copy on this disk, images from wherever the tar is."""

    shard: Shard
    file: InputFile

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last whole record when the tar is damaged."""
        with open(self.file.path(), "rb", buffering=BUFFER) as file:
            reading = Reading.of(CAPTIONS, self.shard.columns)
            yield from batches(islice(records(file, reading), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the bytes of `rows` (columns offset, bytes), each read at its offset; None where either is null."""
        yield from self.file.pieces(map(_place, rows.column("offset").to_pylist(), rows.column("bytes").to_pylist()))


def _place(offset: int | None, size: int | None) -> tuple[int, int] | None:
    if offset is None or size is None or offset < 0 or not 0 <= size <= MAX_IMAGE:
        return None
    return offset, size


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    if entry.url.lower().endswith(PACKED):
        raise InputError(f"{entry.url}: compressed tars cannot be read at random; unpack it first (gunzip, zstd -d)")
    return [shard_of(entry, SOURCE.kind, columns=beside_images(columns))]


def _fields(shard: Shard) -> list[str]:
    with InputFile(shard.url, shard.size) as held, open(held.path(), "rb", buffering=BUFFER) as file:
        return field_names(file)


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url, shard.size) as file:
        yield TarShard(shard, file)


SOURCE = Source("tar", (".tar", *PACKED), _open, _list, _fields)
"""WebDataset tars."""
