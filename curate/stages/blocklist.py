"""The distance of an image to lists of images that must not be used, by the hash of its bytes or a perceptual hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core import watchdog
from curate.core.contracts import Batch, Stage
from curate.core.errors import needs
from curate.core.facts import Fact
from curate.images.header import MAX_DECODED_BYTES
from curate.images.listed_hashes import HASHES, MODULES, listed_hash
from curate.stages.hash_lists import KINDS, UNMARKED, Listed, distances, load_all, parse, read, words
from curate.stages.nearest import nearest_hashes
from curate.stages.pixels import hashes_of

_FAR = 65  # more than any distance: nothing could be compared

_OF_BYTES = ("sha1", "md5", *HASHES)  # kinds that are computed from the image file, and not a fact of another stage


@dataclass(frozen=True)
class ListRef:
    """A list of hashes: `digest` of the file and the `kinds` that it holds; of all kinds until it was read."""

    path: str = field(compare=False, metadata={"identity": False})
    digest: str = ""
    kinds: tuple[str, ...] = tuple(KINDS)


@dataclass(frozen=True)
class BlocklistStage(Stage):
    """Provides blocklist_distance: 0 for listed bytes, else the smallest distance to a listed perceptual hash, 0 to 64.

    Each kind of hash is computed only if a list holds such, and perceptual ones as the library of the list does: imagehash
    and PDQ by a decode of their own, at full size. `unmarked` says whose 16 digits without a kind are (see
    curate.stages.hash_lists.UNMARKED), `max_bytes` is the most that an image may decode to.
    """

    lists: tuple[ListRef, ...] = ()
    unmarked: str = "either"
    max_bytes: int = MAX_DECODED_BYTES

    name: ClassVar[str] = "blocklist"
    version: ClassVar[int] = 2
    cost: ClassVar[float] = 1e-6
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("blocklist_distance", pa.int16(), "image", "0 = listed content hash, else bits of 64 to the nearest listed hash"),
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of hashes that the lists hold, in the order of KINDS."""
        return tuple(kind for kind in KINDS if any(kind in ref.kinds for ref in self.lists))

    @property
    def reads(self) -> tuple[str, ...]:
        """Name what the kinds of the lists are compared with: bytes are read only where a list asks for them."""
        held = self.kinds
        facts = ("sha256", "phash") if "phash" in held else ("sha256",)
        return (*facts, "row", "image", "header", "format") if any(kind in _OF_BYTES for kind in held) else facts

    def resolved(self, cache: Path) -> BlocklistStage:
        """Return the stage with its lists read (nothing is put into `cache`).

        Raises InputError for a list that cannot be read, and where a package is not installed that its kinds need.
        """
        refs = []
        for ref in self.lists:
            data = read(ref.path)
            kinds = parse(data.decode("utf-8", errors="replace"), ref.path, self.unmarked).kinds
            for kind in (kind for kind in kinds if kind in MODULES):
                bare = " (16 digits without a kind may be: see blocklist.unmarked)" if kind in UNMARKED[self.unmarked][1:] else ""
                needs(f"block list {ref.path}, with hashes of {kind}{bare},", kind, [MODULES[kind]])
            refs.append(ListRef(ref.path, hashlib.sha256(data).hexdigest(), kinds))
        return replace(self, lists=tuple(refs))

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with blocklist_distance (int16) appended; null where no perceptual hash can be compared."""
        listed = load_all(tuple((ref.path, ref.digest) for ref in self.lists), self.unmarked)
        column = np.full(batch.num_rows, _FAR, np.int16)
        column[list(_rows_of_contents(batch, listed))] = 0
        if "phash" in listed.perceptual:
            hashes, rows = hashes_of(batch)
            column[rows] = np.minimum(column[rows], nearest_hashes(hashes, listed.perceptual["phash"])[0])
        for kind in (kind for kind in listed.perceptual if kind in HASHES):
            self._compare(batch, kind, listed, column)
        return batch.append_column(self.provides.field(0), pa.array(column, pa.int16(), mask=column == _FAR))

    def _compare(self, batch: Batch, kind: str, listed: Listed, column: npt.NDArray[np.int16]) -> None:
        """Lower the distances in `column`, int16 [rows], to those by hashes that are computed of the images' files."""
        for place in np.flatnonzero(column).tolist():
            row, image, header, form = (batch[name][place] for name in ("row", "image", "header", "format"))
            if header.as_py() != "ok" or not image.is_valid:
                continue
            with watchdog.row(row.as_py()):
                found = listed_hash(kind, image.as_py(), form.as_py(), self.max_bytes)
            if found is not None:
                distance = distances(words(found)[None], listed.perceptual[kind])[0]
                column[place] = min(column[place], distance)


def _rows_of_contents(batch: Batch, listed: Listed) -> Iterator[int]:
    """Yield the places of images whose bytes are listed."""
    for kind, digests in listed.contents.items():
        if kind == "sha256":
            yield from (place for place, digest in enumerate(batch["sha256"].to_pylist()) if digest in digests)
            continue
        for place, image in enumerate(batch["image"]):
            if image.is_valid and hashlib.new(kind, image.as_buffer(), usedforsecurity=False).hexdigest() in digests:
                yield place
