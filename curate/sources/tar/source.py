"""Tars as a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pyarrow as pa

from curate.core.contracts import Batch, Shard, ShardBreak
from curate.sources.fields import Reading, beside_images
from curate.sources.records import MAX_IMAGE, Record, batches
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tar.group import CAPTIONS
from curate.sources.tar.members import BUFFER, SPARSE, content, member_at
from curate.sources.tar.records import field_names, records
from curate.sources.tar.unpacked import SUFFIXES, packing, unpack
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry

INSIDE = 1 << 60
"""Bit of the offsets of a packed tar: they are places in what it unpacks to."""


@dataclass
class TarShard:
    """A tar that is open for reading: records from a copy on this disk, images from wherever the tar is.

    A packed one cannot be read at random: it is unpacked to this disk, once for each task that reads of it.
    """

    shard: Shard
    file: InputFile
    held: ExitStack

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last whole record when the tar is damaged."""
        path, bit = self._path()
        with open(path, "rb", buffering=BUFFER) as file:
            yield from batches(islice(self._records(file, bit), self.shard.limit))

    def fields(self) -> list[str]:
        """Return the names of the fields in the first JSON files of the tar."""
        with open(self._path()[0], "rb", buffering=BUFFER) as file:
            return field_names(file, Reading.of(CAPTIONS, self.shard.columns))

    def _path(self) -> tuple[str, int]:
        """Return the path of the tar, unpacked if it is packed, and the bit of its offsets."""
        path = self.file.path()
        return (path, 0) if packing(path) is None else (self._inside[0], INSIDE)

    def _records(self, file: BinaryIO, bit: int) -> Iterator[Record]:
        damage = self._inside[1] if bit else None
        try:
            for record in records(file, Reading.of(CAPTIONS, self.shard.columns)):
                yield record if not bit or record.offset is None else record._replace(offset=record.offset | bit)
        except ShardBreak as error:
            raise ShardBreak(f"{damage}; in it: {error}" if damage else str(error)) from None
        if damage:
            raise ShardBreak(damage)

    @cached_property
    def _inside(self) -> tuple[str, str | None]:
        """Return the path of what a packed tar unpacks to, and what is wrong with it."""
        path, folder = self.file.path(), self.held.enter_context(TemporaryDirectory(prefix="curate-"))
        target = os.path.join(folder, "unpacked.tar")
        with open(target, "wb") as file:
            return target, unpack(path, packing(path) or "", os.path.getsize(path), file)

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the bytes of `rows` (columns offset, bytes), each read at its offset; None where either is null."""
        offsets, sizes = rows.column("offset").to_pylist(), rows.column("bytes").to_pylist()
        if any(offset is not None and offset & SPARSE for offset in offsets):
            yield from self._with_sparse(offsets, sizes)
        elif any(offset is not None and offset & INSIDE for offset in offsets):
            inside = InputFile(self._inside[0])
            yield from inside.pieces(map(_place, (offset and offset & ~INSIDE for offset in offsets), sizes))
        else:
            yield from self.file.pieces(map(_place, offsets, sizes))

    def _with_sparse(self, offsets: list[int | None], sizes: list[int | None]) -> Iterator[bytes | None]:
        """Yield images of which some have holes: from a copy of the tar on this disk."""
        with open(self._path()[0], "rb", buffering=BUFFER) as file:
            for offset, size in zip(offsets, sizes, strict=True):
                place = _place(offset and offset & ~(INSIDE | SPARSE), size)
                if place is None:
                    yield None
                elif offset is not None and offset & SPARSE:
                    yield content(file, member_at(file, place[0]), place[1])
                else:
                    file.seek(place[0])
                    yield file.read(place[1])


def _place(offset: int | None, size: int | None) -> tuple[int, int] | None:
    if offset is None or size is None or offset < 0 or not 0 <= size <= MAX_IMAGE:
        return None
    return offset, size


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    return [shard_of(entry, SOURCE.kind, columns=beside_images(columns))]


def _fields(shard: Shard) -> list[str]:
    with InputFile(shard.url, shard.size) as file, ExitStack() as held:
        return TarShard(shard, file, held).fields()


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url, shard.size) as file, ExitStack() as held:
        yield TarShard(shard, file, held)


SOURCE = Source("tar", (".tar", *SUFFIXES), _open, _list, _fields)
"""WebDataset tars."""
