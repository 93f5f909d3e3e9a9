"""From a shard to its records and images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from curate.core.contracts import Batch, Shard
from curate.sources.linked_files import Folder
from curate.storage.paths import staged


class OpenShard(Protocol):
    """A shard whose file is at hand for the time of a task."""

    def read(self) -> Iterator[Batch]:
        """Yield batches of at most ROW_GROUP rows or BATCH_BYTES. Raises ShardBreak after the last good row."""

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the image bytes of `rows` (columns row, offset, bytes; ascending by row), None where there are none."""


@contextmanager
def open_shard(shard: Shard) -> Iterator[OpenShard]:
    """Open a shard; a remote file is copied to the local disk once, and removed at the end.

    Raises ShardBreak when it cannot be read at all, OSError when it is not there.
    """
    if shard.kind == "folder":
        from curate.sources.folder import FolderShard

        yield FolderShard(shard)
        return
    with staged(shard.url) as path:
        yield _opened(shard, path)


def _opened(shard: Shard, path: str) -> OpenShard:
    if shard.kind == "tar":
        from curate.sources.tar import TarShard

        return TarShard(shard, path)
    if shard.kind == "archive":
        from curate.sources.webarchive.pairs import ArchiveShard

        return ArchiveShard(shard, path)
    from curate.sources.tables.csv import Csv
    from curate.sources.tables.jsonl import JsonLines
    from curate.sources.tables.parquet import Parquet
    from curate.sources.tables.reader import DAMAGE, broken
    from curate.sources.tables.table import TableShard

    folder = Folder(shard.url.rpartition("/")[0] or "/")
    if shard.kind == "jsonl":
        return JsonLines(shard, path, folder)
    try:
        reader = Parquet(path, shard.part) if shard.kind == "parquet" else Csv(path, tabs=path.lower().endswith(".tsv"))
        return TableShard(shard, reader, folder)
    except DAMAGE as error:
        raise broken(shard.url, error) from None


def read(shard: Shard) -> Iterator[Batch]:
    """Yield the batches of a shard (see OpenShard.read)."""
    with open_shard(shard) as opened:
        yield from opened.read()


def images(shard: Shard, rows: pa.Table) -> Iterator[bytes | None]:
    """Yield the image bytes of `rows` of a shard (see OpenShard.images)."""
    with open_shard(shard) as opened:
        yield from opened.images(rows)
