"""Finding images by hashes that no fact holds (sha1, MD5, those of imagehash, PDQ): of the images that OUT has, not of its input.

These are the samples in its tars, and what it has fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import Report, Shard
from curate.fetch.image_log import FetchedImages
from curate.images.header import MAX_DECODED_BYTES, read_header
from curate.images.listed_hashes import HASHES, listed_hash
from curate.images.phash import Hashes
from curate.passes.pack import Block, mark_of
from curate.stages.hash_lists import CONTENTS, words
from curate.storage.samples import index_beside, open_samples, sample_files
from curate.storage.store import Store

COMPUTED = ("sha1", "md5", *HASHES)
"""The kinds of hashes that have to be computed."""

NOTES = "work/removal"
"""Where the tasks note what they have found."""


@dataclass(frozen=True)
class Wanted:
    """Hashes to look for, by kind: digests of bytes; perceptual hashes, uint64 [n, words], and how far each reaches, int64 [n].

    The reach is in 64ths of a hash's bits: four of PDQ's 256 count as one.
    """

    digests: Mapping[str, frozenset[str]]
    perceptual: Mapping[str, tuple[Hashes, npt.NDArray[np.int64]]]

    def __contains__(self, image: bytes) -> bool:
        """Return whether the bytes of an image, or its picture, are looked for."""
        if any(hashlib.new(kind, image, usedforsecurity=False).hexdigest() in some for kind, some in self.digests.items()):
            return True
        if not self.perceptual:
            return False
        header = read_header(image)
        return header.reason == "ok" and any(self._near(kind, image, str(header.format)) for kind in self.perceptual)

    def _near(self, kind: str, image: bytes, form: str) -> bool:
        found = listed_hash(kind, image, form, MAX_DECODED_BYTES)
        if found is None:
            return False
        hashes, radius = self.perceptual[kind]
        bits = np.bitwise_count(hashes ^ words(found)).sum(axis=1)
        return bool((bits <= radius * hashes.shape[1]).any())


def looked_for(hashes: Mapping[str, Iterable[tuple[str, int]]]) -> Wanted:
    """Return hashes (hex digits and radius, by kind of COMPUTED) as they are looked for."""
    digests = {kind: frozenset(digits.lower() for digits, _ in some) for kind, some in hashes.items() if kind in CONTENTS}
    perceptual = {kind: list(some) for kind, some in hashes.items() if kind in HASHES}
    return Wanted(
        {kind: some for kind, some in digests.items() if some},
        {
            kind: (np.stack([words(bytes.fromhex(digits)) for digits, _ in some]), np.array([radius for _, radius in some]))
            for kind, some in perceptual.items()
            if some
        },
    )


@dataclass(frozen=True)
class FindInTars:
    """The task: notes the keys of the samples of a block whose image is wanted."""

    store: Store
    run: str
    wanted: Wanted

    def __call__(self, block: Block) -> Report:
        """Look through the tars of one block."""
        mark = self.store.mark(self.run, mark_of(block.index))
        names = sample_files(() if mark is None else mark.files)
        found = [key for name in names for key in self._keys(name)]
        _note(self.store, f"block-{block.index:06d}", found)
        return Report(block.index, len(found), {}, {})

    def _keys(self, name: str) -> Iterator[str]:
        out = self.store.storage
        with out.reading(index_beside(name)) as rows, out.reading(name) as path, open_samples(path, name) as reader:
            for row in pq.read_table(rows, columns=["key", "offset", "size"]).to_pylist():
                if reader.image(row["offset"], row["size"]) in self.wanted:
                    yield row["key"]


@dataclass(frozen=True)
class FindFetched:
    """The task: notes the sha256 of the fetched images of a shard that are wanted."""

    store: Store
    wanted: Wanted

    def __call__(self, shard: Shard) -> Report:
        """Look through what was fetched for one shard."""
        with FetchedImages(self.store, shard) as images:
            rows = images.table.filter(pc.is_valid(images.table["offset"]))
            pairs = zip(rows["sha256"].to_pylist(), images.images(rows), strict=True)
            found = [digest for digest, image in pairs if image is not None and image in self.wanted]
        _note(self.store, f"shard-{shard.index:06d}", found)
        return Report(shard.index, len(found), {}, {})


def _note(store: Store, name: str, found: list[str]) -> None:
    if found:
        store.write_json(f"{NOTES}/{name}.json", found)


def take_notes(store: Store, kind: str) -> list[str]:
    """Return what the tasks have found ('block': keys of samples, 'shard': sha256), and remove their notes."""
    names = sorted(f"{NOTES}/{one.name}" for one in store.storage.listing(NOTES) if one.name.startswith(kind))
    found = [each for name in names for each in store.read_json(name) or ()]
    store.storage.remove(names)
    return found
