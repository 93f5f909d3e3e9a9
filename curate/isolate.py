"""One image, decoded in a process of its own: does it kill or hang its decoder, or was the worker's death something else?"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate import guard
from curate.contracts import Shard
from curate.sources import open_shard
from curate.stages.decode import DecodeStage, Want
from curate.stages.pictures import recorded
from curate.stages.thumbnails import thumbnail

MEMORY = 4 << 30
"""Bytes of address space that the process of a suspect may take on top of what it starts with."""

_START_SECONDS = 120.0  # to start a process, open its shard and find the row: on a busy machine, and with a remote shard


@dataclass(frozen=True)
class Suspect:
    """A row that was being decoded when its worker died, and how to decode it again."""

    base: Path  # the shard's base facts
    shard: Shard
    row: int
    decode: DecodeStage
    seconds: float = guard.ROW_SECONDS
    side: int = 0  # of the picture that was made of it for a model; 0: none was


def confirm(suspect: Suspect, journal: Path) -> str | None:
    """Return `decoder_crash` or `timeout` when decoding the row alone, within limits, ends so too, else None.

    `journal` is a file for the child's notes: only a death while it was inside the decoder counts against the row.
    """
    process = multiprocessing.get_context("spawn").Process(target=_decode, args=(suspect, journal))
    process.start()
    process.join(_START_SECONDS + 3 * suspect.seconds)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    blamed = bool(guard.inside(journal))
    journal.unlink(missing_ok=True)
    if not blamed or not process.exitcode:
        return None
    return "timeout" if hung or process.exitcode == -signal.SIGALRM else "decoder_crash"


def _decode(suspect: Suspect, journal: Path) -> None:
    facts = pq.read_table(suspect.base, filters=[("row", "==", suspect.row)])
    with open_shard(suspect.shard) as opened:
        images = list(opened.images(facts.select(["row", "offset", "bytes"])))
    batch = facts.append_column("image", pa.array(images, pa.binary())).combine_chunks().to_batches()[0]
    data = images[0] or b""
    _limit()
    with guard.journal(journal, suspect.seconds):
        try:
            suspect.decode(batch)
            if suspect.side:
                form = batch["format"][0].as_py()
                recorded(suspect.row, Want(data, form, rgb=True, side=suspect.side, max_bytes=suspect.decode.max_bytes))
            with guard.row(suspect.row):
                thumbnail(data)
        except MemoryError:
            with guard.row(suspect.row):
                os._exit(1)


def _limit() -> None:
    """Bound the memory of this process; where the system has no such number it stays as it is."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
