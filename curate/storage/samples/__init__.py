"""Files of samples, as an output holds them in shards/: one interface for every kind, and the names of these files.

A tar and a parquet file hold the same: images, and of each what `key.json` and `key.txt` say. Their names say which kind they
are; beside `shards/N.tar` or `shards/N.parquet`, `index/N.parquet` says where its images are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from curate.storage.samples.contract import Kind, Packed, SampleReader, SampleWriter
from curate.storage.samples.parquet import SUFFIX as PARQUET
from curate.storage.samples.parquet import ParquetKind, ParquetSampleReader
from curate.storage.samples.tars import SUFFIX as TAR
from curate.storage.samples.tars import TarKind, TarSampleReader

__all__ = [
    "FILES",
    "Kind",
    "Packed",
    "ParquetKind",
    "SampleReader",
    "SampleWriter",
    "TarKind",
    "index_beside",
    "is_tar",
    "kind_in",
    "kind_like",
    "number_of",
    "open_samples",
    "sample_files",
]

_READERS: Mapping[str, Callable[[Path], SampleReader]] = {TAR: TarSampleReader, PARQUET: ParquetSampleReader}


FILES: Mapping[str, str] = {"tars": "tars", "parquet": "parquet files"}
"""What the files are called, by `output.kind`."""


def open_samples(path: Path, name: str) -> SampleReader:
    """Open the file of samples at `path`, which is called `name` in its output. Raises OSError, pyarrow.ArrowException."""
    return _READERS[PurePosixPath(name).suffix](path)


def kind_like(path: Path, name: str) -> Kind:
    """Return the kind of a file of samples, to write others with its columns. Raises OSError, pyarrow.ArrowException."""
    return TarKind() if is_tar(name) else ParquetKind.like(path)


def is_tar(name: str) -> bool:
    """Return whether a file of samples is a tar, by its name."""
    return name.endswith(TAR)


def kind_in(manifest: Mapping[str, Any]) -> str:
    """Return what the samples of an output are in, as its recipe says it (`output.kind`).

    >>> kind_in({"recipe": {"output": {}}}), kind_in({"recipe": {"output": {"kind": "parquet"}}})
    ('tars', 'parquet')
    """
    return str(((manifest.get("recipe") or {}).get("output") or {}).get("kind") or "tars")


def sample_files(names: Iterable[str]) -> list[str]:
    """Return those of some files of OUT that hold samples, in order: in shards/, of OUT or of what is staged there.

    >>> sample_files(["index/00010.parquet", "shards/00010.tar", "staged/00001-ab/shards/00009.parquet"])
    ['staged/00001-ab/shards/00009.parquet', 'shards/00010.tar']
    """
    return sorted((name for name in names if PurePosixPath(name).parent.name == "shards"), key=number_of)


def index_beside(name: str) -> str:
    """Return the name of the index of a file of samples.

    >>> index_beside("staged/00001-ab/shards/00009.tar")
    'staged/00001-ab/index/00009.parquet'
    """
    path = PurePosixPath(name)
    return str(path.parent.parent / "index" / f"{path.stem}.parquet")


def number_of(name: str) -> int:
    """Return the number of a file of samples, or of an index."""
    return int(PurePosixPath(name).stem)
