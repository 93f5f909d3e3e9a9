"""The arguments of each command, typed; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Work:
    """Inputs, output and runner."""

    inputs: tuple[str, ...]
    out: str
    runner: str
    address: str
    master: str | None
    workers: int | None


@dataclass(frozen=True)
class Run(Work):
    """Arguments of `curate run`."""

    recipe: str
    gpus: int | None
    gpu_share: float
    min_workers: int
    samples_per_shard: int | None
    memory: str
    max_failed_shards: int | None
    counts_of: tuple[str, ...]
    retry_failed: bool
    replace: bool
    add: bool
    facts: str | None
    progress: Literal["auto", "bar", "lines", "none"]
    log_format: Literal["text", "json"]
    quiet: bool
    verbose: bool
    overrides: tuple[str, ...]
    models: str | None
    plugins: tuple[str, ...]
    columns: tuple[str, ...]
    table: str
    members: tuple[str, ...]
    max_json: str
    max_bad_records: float
    as_json: bool


@dataclass(frozen=True)
class Extract(Work):
    """Arguments of `curate extract`."""

    surrounding: int
    images_from_archive: bool
    error_pages: bool
    as_json: bool


@dataclass(frozen=True)
class Gc:
    """Arguments of `curate gc`."""

    store: str
    dry_run: bool
    as_json: bool


@dataclass(frozen=True)
class Remove:
    """Arguments of `curate remove`."""

    out: str
    sha256: tuple[str, ...]
    sha1: tuple[str, ...]
    md5: tuple[str, ...]
    phash: tuple[str, ...]
    imagehash: tuple[str, ...]
    pdq: tuple[str, ...]
    radius: int
    url: tuple[str, ...]
    key: tuple[str, ...]
    text: tuple[str, ...]
    lists: tuple[Path, ...]
    dry_run: bool
    workers: int | None
    as_json: bool


@dataclass(frozen=True)
class DryRun:
    """Arguments of `curate dry-run`."""

    recipe: str
    shard: str
    samples: int
    pairs: float
    counts: str | None
    html: Path | None
    overrides: tuple[str, ...]
    models: str | None
    plugins: tuple[str, ...]
    columns: tuple[str, ...]
    table: str
    members: tuple[str, ...]
    max_json: str
    max_bad_records: float
    as_json: bool


@dataclass(frozen=True)
class Plan:
    """Arguments of `curate plan`."""

    recipe: str
    inputs: tuple[str, ...]
    overrides: tuple[str, ...]
    models: str | None
    plugins: tuple[str, ...]
    columns: tuple[str, ...]
    table: str
    members: tuple[str, ...]
    max_json: str
    max_bad_records: float
    as_json: bool


@dataclass(frozen=True)
class Stats:
    """Arguments of `curate stats`."""

    inputs: tuple[str, ...]
    html: Path | None
    workers: int | None
    columns: tuple[str, ...]
    table: str
    members: tuple[str, ...]
    max_json: str
    max_bad_records: float
    as_json: bool


@dataclass(frozen=True)
class Report:
    """Arguments of `curate report` and `curate verify`."""

    out: str
    as_json: bool


@dataclass(frozen=True)
class Why:
    """Arguments of `curate why`."""

    out: str
    key: str
    as_json: bool


@dataclass(frozen=True)
class Diff:
    """Arguments of `curate diff`."""

    a: str
    b: str
    html: Path | None
    as_json: bool


@dataclass(frozen=True)
class Merge:
    """Arguments of `curate merge`."""

    outs: tuple[str, ...]
    out: str
    duplicates: Literal["keep", "drop"]
    workers: int | None
    as_json: bool


@dataclass(frozen=True)
class WhatIf:
    """Arguments of `curate what-if`."""

    out: str
    overrides: tuple[str, ...]
    plugins: tuple[str, ...]
    as_json: bool


@dataclass(frozen=True)
class Calibrate:
    """Arguments of `curate calibrate`."""

    sets: tuple[str, ...]
    candidates: tuple[str, ...]
    rate: float
    embedder: str
    as_json: bool


@dataclass(frozen=True)
class TrainMini:
    """Arguments of `curate train-mini`."""

    data: tuple[str, ...]
    out: Path
    holdout: tuple[str, ...]
    epochs: int
    workers: int | None
    as_json: bool


@dataclass(frozen=True)
class Filters:
    """Arguments of `curate filters`."""

    plugins: tuple[str, ...]
    as_json: bool


@dataclass(frozen=True)
class List:
    """Arguments of `curate recipes`."""

    as_json: bool
