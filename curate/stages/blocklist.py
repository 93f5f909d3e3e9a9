"""The distance of an image to lists of images that must not be used, by content hash or perceptual hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.errors import InputError
from curate.core.facts import Fact
from curate.stages.nearest import nearest_hashes
from curate.stages.pixels import hashes_of

_HASH = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{16}")


@dataclass(frozen=True)
class ListRef:
    """A list of hashes: `digest` of the file, and whether it holds `perceptual` hashes, both once it was read."""

    path: str = field(compare=False, metadata={"identity": False})
    digest: str = ""
    perceptual: bool = True


@dataclass(frozen=True)
class Listed:
    """A list: sha256 in lower-case hex, and perceptual hashes as uint64 [n] in file order."""

    sha256: frozenset[str]
    phash: npt.NDArray[np.uint64]


def parse(text: str, path: str) -> Listed:
    """Parse a list: one hash per line, with empty lines and # comments. Raises InputError with path:line."""
    contents: set[str] = set()
    perceptual: list[int] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        if not _HASH.fullmatch(word):
            raise InputError(f"{path}:{number}: neither sha256 (64 hex digits) nor perceptual hash (16): {word[:80]!r}")
        if len(word) == 64:
            contents.add(word.lower())
        else:
            perceptual.append(int(word, 16))
    return Listed(frozenset(contents), np.array(perceptual, np.uint64))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"block list {path}: {error.strerror or error}") from error


@lru_cache(maxsize=16)
def _load(path: str, digest: str) -> Listed:
    """Return the list at `path`. Raises InputError when its content has another digest."""
    data = _read(path)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"block list {path} changed during the run")
    return parse(data.decode("utf-8", errors="replace"), path)


@dataclass(frozen=True)
class BlocklistStage(Stage):
    """Provides blocklist_distance: 0 for a listed sha256, else the smallest Hamming distance to a listed phash."""

    lists: tuple[ListRef, ...] = ()

    name: ClassVar[str] = "blocklist"
    cost: ClassVar[float] = 1e-6
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("blocklist_distance", pa.int16(), "image", "0 = listed content hash, else Hamming distance to the list"),
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Name the hashes that the lists hold: without perceptual ones no image has to be decoded."""
        return ("sha256", "phash") if any(ref.perceptual for ref in self.lists) else ("sha256",)

    def resolved(self, cache: Path) -> BlocklistStage:
        """Return the stage with its lists read (nothing is put into `cache`). Raises InputError."""
        refs = []
        for ref in self.lists:
            data = _read(ref.path)
            listed = parse(data.decode("utf-8", errors="replace"), ref.path)
            refs.append(ListRef(ref.path, hashlib.sha256(data).hexdigest(), perceptual=len(listed.phash) > 0))
        return replace(self, lists=tuple(refs))

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with blocklist_distance (int16) appended; null where no hash can be compared."""
        lists = [_load(ref.path, ref.digest) for ref in self.lists]
        column: list[int | None] = [None] * batch.num_rows
        phashes = np.concatenate([listed.phash for listed in lists]) if lists else np.empty(0, np.uint64)
        if "phash" in self.reads and len(phashes):
            hashes, rows = hashes_of(batch)
            for row, distance in zip(rows.tolist(), nearest_hashes(hashes, phashes)[0].tolist(), strict=True):
                column[row] = distance
        for row, content in enumerate(batch.column("sha256").to_pylist()):
            if any(content in listed.sha256 for listed in lists):
                column[row] = 0
        return batch.append_column(self.provides.field(0), pa.array(column, pa.int16()))
