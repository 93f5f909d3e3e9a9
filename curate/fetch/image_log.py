"""The fetched images of a shard whose records hold URLs: an append-only log of pieces.

A piece is a tar of images in order of arrival, and a parquet file with the result for each row. The mark that commits it is
created only if it does not exist, so two attempts at one shard cannot undo each other. For a row in several pieces, since a
failure was retried, the last piece counts.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate.core import facts
from curate.core.contracts import ROW_GROUP, Batch, Shard
from curate.core.counting import PLACE_BITS
from curate.sources.opening import open_shard
from curate.stages.header import HeaderStage
from curate.storage.marks import File, Mark
from curate.storage.store import FETCHED, FETCHED_TARS, Store, data_name

HEADER = tuple(fact.name for fact in HeaderStage.facts)

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        *facts.schema(("fetched",)),
        pa.field("offset", pa.int64()),  # of the image, in the tar of the piece
        *facts.schema_of(HeaderStage.facts),
        pa.field("content_key", pa.uint64()),
    ]
)

_OPEN = 4  # open tars of one shard; each may be a copy from an object store


class ImageReader(Protocol):
    """Reads the images of a shard."""

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the image bytes of `rows` (columns row, offset, bytes; ascending by row), None for rows without."""


@contextmanager
def open_images(store: Store, shard: Shard) -> Iterator[ImageReader]:
    """Give the images of a shard: of the file itself, or the fetched ones. Reading them raises like open_shard."""
    with FetchedImages(store, shard) if shard.on_the_web else ShardImages(shard) as images:
        yield images


class ShardImages:
    """The images of a shard's file, opened for the first one: a shard of which no image is read need not be there any more."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._held = shard, ExitStack()
        self._opened: ImageReader | None = None

    def __enter__(self) -> ShardImages:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._held.__exit__(*raised)

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (see ImageReader). Raises like open_shard."""
        if self._opened is None:
            self._opened = self._held.enter_context(open_shard(self._shard))
        return self._opened.images(rows)


class Piece(NamedTuple):
    """The files of a piece that is being written: a tar, and its facts (SCHEMA)."""

    tar: Path
    facts: Path


class Committed(NamedTuple):
    """A committed piece: the names of its files in OUT, and the tar's size."""

    facts: str
    tar: str
    tar_bytes: int


@dataclass(frozen=True)
class ImageLog:
    """The pieces of one shard."""

    store: Store
    shard: Shard

    def pieces(self) -> Iterator[Committed]:
        """Yield the committed pieces, in order."""
        number = 0
        while (content := self.store.read_json(f"facts/{FETCHED}/{self._fingerprint(number)}.json")) is not None:
            files = Mark.from_json(content).files
            tar = next(name for name in files if name.endswith(".tar"))
            facts = next(name for name in files if name != tar)
            yield Committed(facts, tar, files[tar].bytes)
            number += 1

    @contextmanager
    def writing(self) -> Iterator[Piece]:
        """Write a new piece, committed when the block ends.

        Raises RuntimeError if another attempt has committed a piece in the meantime.
        """
        number = sum(1 for _ in self.pieces())
        file = data_name(self._fingerprint(number), uuid.uuid4().hex[:8])
        name, tar = f"facts/{FETCHED}/{file}", f"{FETCHED_TARS}/{Path(file).stem}.tar"
        storage = self.store.storage
        with storage.writing(name) as path, storage.writing(tar) as images:
            yield Piece(images, path)
            mark = Mark({name: File(path.stat().st_size), tar: File(images.stat().st_size)})
        if not storage.create(f"facts/{FETCHED}/{self._fingerprint(number)}.json", json.dumps(mark.to_json()).encode()):
            raise RuntimeError(f"shard {self.shard.index} is being fetched by another attempt too")

    def table(self) -> pa.Table:
        """Return the last result of each requested row (SCHEMA), by row; `offset` has the piece above PLACE_BITS.

        Images whose tar has been deleted are left out.
        """
        parts = []
        for number, piece in enumerate(self.pieces()):
            with self.store.storage.reading(piece.facts) as path:
                part = pq.ParquetFile(path).read()
            if self.store.storage.size(piece.tar) != piece.tar_bytes:
                part = part.filter(pc.not_equal(part["fetched"], "ok"))  # lost: as if never requested
            place = pc.add(part["offset"], number << PLACE_BITS)
            parts.append(part.set_column(SCHEMA.get_field_index("offset"), "offset", place).cast(SCHEMA))
        found = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        rows = found["row"].to_numpy()
        order = np.argsort(rows, kind="stable")
        last = np.ones(len(rows), np.bool_)
        last[:-1] = rows[order][1:] != rows[order][:-1]
        return found.take(order[last]).combine_chunks()

    def _fingerprint(self, number: int) -> str:
        return fingerprint_of(self.shard, number)


def fingerprint_of(shard: Shard, number: int) -> str:
    """Return the fingerprint of a piece of a shard."""
    return piece_fingerprint(shard.fingerprint, number)


def piece_fingerprint(shard: str, number: int) -> str:
    """Return the fingerprint of a piece, from its shard's."""
    return xxhash.xxh3_64_hexdigest(f"{shard}/{number}".encode())


def shards_without_images(store: Store, shards: Iterable[Shard]) -> list[int]:
    """Return the indices of shards with fetched images whose tar has been deleted."""
    there = {found.name for found in store.storage.listing(FETCHED_TARS)}
    committed = store.committed(FETCHED)
    names = zip(committed.fingerprints.tolist(), committed.attempts.tolist(), strict=True)
    has_tar = {f"{one:016x}": f"{one:016x}.{attempt:08x}.tar" in there for one, attempt in names}
    if all(has_tar.values()):
        return []
    pieces = ((shard, takewhile(has_tar.__contains__, (fingerprint_of(shard, number) for number in count()))) for shard in shards)
    return [shard.index for shard, fingerprints in pieces if not all(map(has_tar.__getitem__, fingerprints))]


class FetchedImages:
    """The fetched images of a shard and their facts."""

    def __init__(self, store: Store, shard: Shard) -> None:
        self._store = store
        log = ImageLog(store, shard)
        self._tars = [piece.tar for piece in log.pieces()]
        self.table = log.table()
        self._rows = self.table["row"].to_numpy()
        self._open: dict[int, tuple[ExitStack, BinaryIO]] = {}

    def __enter__(self) -> FetchedImages:
        return self

    def __exit__(self, *_: object) -> None:
        for tar, _file in self._open.values():
            tar.close()
        self._open.clear()

    def overlay(self, batch: Batch) -> Batch:
        """Return base facts with those of the fetched images filled in; the fact `fetched` is null for rows never requested."""
        rows = batch["row"].to_numpy()
        place = np.searchsorted(self._rows, rows)
        here = np.zeros(len(rows), np.bool_)
        if len(self._rows):
            np.equal(self._rows[np.minimum(place, len(self._rows) - 1)], rows, out=here)
        where = pa.array(place, pa.int64(), mask=~here)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in ("fetched", *(name for name in SCHEMA.names[2:] if name in columns)):
            columns[name] = self.table[name].combine_chunks().take(where)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (columns offset, as in `overlay`, and bytes)."""
        for offset, size in zip(rows["offset"].to_pylist(), rows["bytes"].to_pylist(), strict=True):
            if offset is None:
                yield None
                continue
            file = self._tar(offset >> PLACE_BITS)
            file.seek(offset & ((1 << PLACE_BITS) - 1))
            yield file.read(size)

    def _tar(self, piece: int) -> BinaryIO:
        if piece not in self._open:
            if len(self._open) >= _OPEN:
                oldest = next(iter(self._open))
                self._open.pop(oldest)[0].close()
            held = ExitStack()
            path = held.enter_context(self._store.storage.reading(self._tars[piece]))
            self._open[piece] = held, held.enter_context(path.open("rb"))
        return self._open[piece][1]


def base_batches(images: ImageReader, base: Path, rows: int = ROW_GROUP, columns: Sequence[str] | None = None) -> Iterator[Batch]:
    """Yield base facts of a shard from their file, with those of its fetched images filled in."""
    batches = pq.ParquetFile(base).iter_batches(rows, columns=columns)
    yield from map(images.overlay, batches) if isinstance(images, FetchedImages) else batches
