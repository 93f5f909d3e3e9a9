"""One image, decoded in a process of its own: does it kill or hang its decoder, or was the worker's death something else?"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.contracts import Shard, Stage
from curate.guard import ROW_SECONDS
from curate.sources import open_shard


def confirm(base: Path | None, shard: Shard, row: int, decode: Stage) -> str | None:
    """Return `decoder_crash` or `timeout` when decoding the row alone ends so too, else None."""
    if base is None:
        return None
    process = multiprocessing.get_context("spawn").Process(target=_decode, args=(base, shard, row, decode))
    process.start()
    process.join(ROW_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return "timeout"
    return "decoder_crash" if process.exitcode else None


def _decode(base: Path, shard: Shard, row: int, decode: Stage) -> None:
    facts = pq.read_table(base, filters=[("row", "==", row)])
    with open_shard(shard) as opened:
        images = list(opened.images(facts.select(["row", "offset", "bytes"])))
    batch = facts.append_column("image", pa.array(images, pa.binary())).combine_chunks().to_batches()[0]
    decode(batch)
