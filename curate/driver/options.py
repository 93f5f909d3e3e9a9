"""The settings of a run that change how it executes, not what it writes (except `into`, `retry_failed` and `counted_only`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from curate.core import watchdog
from curate.passes.fetch import Download


@dataclass(frozen=True)
class RunOptions:
    """How one run executes."""

    memory: int = 1_000_000_000  # bytes for merging corpus counts
    warnings: Sequence[str] = ()  # repeated in the manifest and the report
    max_failed_shards: int | None = None  # stop the run when more shards failed; None: never
    row_seconds: float = watchdog.ROW_SECONDS  # time limit for decoding one image
    gpus: int = 0  # above 0, captioner and matcher run in a pass of their own, with GPU workers
    gpu_share: float = 1  # share of a GPU that one worker takes
    threads: int = 1  # decoding threads per GPU
    counted_only: int = 0  # number of shards, at the end of the input, that only contribute to corpus counts
    into: Literal["same", "replace", "add"] = "same"  # what may become of a finished output of something else
    retry_failed: bool = False  # fetch again what could not be fetched
    download: Download | None = None  # downloader; None: curate.fetch.fetch
    shared: bool = False  # workers run on other machines, which can read OUT but not this machine's disk
