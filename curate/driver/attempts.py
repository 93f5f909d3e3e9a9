"""A task over items: tried again where a worker died, images that kill workers found, given up after ATTEMPTS."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

from curate.core.contracts import Needs, Shard, ShardBreak, TaskDied
from curate.core.errors import OutOfDeviceMemory
from curate.fetch.image_log import open_images
from curate.passes.pack import Block
from curate.storage.store import Store

ATTEMPTS = 3
"""How often a shard is tried before it is reported as failed (a confirmed culprit does not count)."""


_NOWHERE = pa.table({"row": pa.array([], pa.int64()), "offset": pa.array([], pa.int64()), "bytes": pa.array([], pa.int64())})


_ONE_CORE = Needs()


T = TypeVar("T", Shard, Block)


def _is_full(death: TaskDied) -> bool:
    return death.error == OutOfDeviceMemory.__name__


def _without(block: Block, gone: set[int]) -> Block:
    return Block(block.index, tuple(shard for shard in block.shards if shard.index not in gone))


def _lost(store: Store, block: Block) -> list[Shard]:
    """Return the shards of a block that cannot be opened any more; all of them when it is not that."""
    found = []
    for shard in block.shards:
        try:
            with open_images(store, shard) as opened:
                list(opened.images(_NOWHERE))
        except (OSError, ShardBreak):
            found.append(shard)
    return found or list(block.shards)
