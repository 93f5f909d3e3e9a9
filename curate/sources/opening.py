"""From a shard to its records and images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pyarrow as pa

from curate.core.contracts import Batch, Shard
from curate.sources.registry import source
from curate.sources.source import OpenShard


def open_shard(shard: Shard) -> AbstractContextManager[OpenShard]:
    """Open a shard. Entering raises ShardBreak when nothing of it can be read, OSError when it is not there."""
    return source(shard.kind).open(shard)


def read(shard: Shard) -> Iterator[Batch]:
    """Yield the batches of a shard (see OpenShard.read)."""
    with open_shard(shard) as opened:
        yield from opened.read()


def images(shard: Shard, rows: pa.Table) -> Iterator[bytes | None]:
    """Yield the image bytes of `rows` of a shard (see OpenShard.images)."""
    with open_shard(shard) as opened:
        yield from opened.images(rows)
