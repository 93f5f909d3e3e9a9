"""Merged counts, looked up by key in memory-mapped files."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import PLACE_BITS, Batch, CorpusCount
from curate.counts.keys import image_key, pair_key
from curate.stages.text import Keys, Tokens
from curate.storage.backend import Storage
from curate.storage.local_copies import local_copy

_FILES = ("keys.u64", "values.i64")


@dataclass(frozen=True)
class Lookup:
    """Merged counts in a folder of an output: keys.u64 sorted, values.i64, and what they are exact from.

    `floor` 1 says that every count is known: what is not found counts exactly 1 (an n-gram of the corpus cannot count less).
    All processes of a node map the same two files: those of the output, or of a copy that the first of them makes.
    """

    storage: Storage
    name: str
    floor: int

    def values(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the value of each key, 0 where it is below the floor. Queries are searched in sorted order: 4x faster."""
        stored, values = _mapped(self.storage, self.name)
        if not len(stored) or not len(keys):
            return np.zeros(len(keys), np.int64)
        order = np.argsort(keys)
        ordered = keys[order]
        new = np.ones(len(keys), np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        wanted = ordered[new]
        where = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        answers = np.where(stored[where] == wanted, values[where], 0)
        found = np.empty(len(keys), np.int64)
        found[order] = np.repeat(answers, np.diff(np.flatnonzero(new), append=len(keys)))
        return found


@functools.lru_cache(16)
def _mapped(storage: Storage, name: str) -> tuple[Keys, npt.NDArray[np.int64]]:
    folder = local_copy(storage, f"counts/{name}", _FILES)
    if not (folder / "keys.u64").stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.memmap(folder / "keys.u64", np.uint64, "r"), np.memmap(folder / "values.i64", np.int64, "r")


def lookup_fact(count: CorpusCount, lookup: Lookup, batch: Batch, words: Tokens, shard: int) -> pa.Array:
    """Return the count's fact for a batch of base facts of shard number `shard`.

    Null below the floor and where a record contributes nothing.
    """
    if count.kind == "ngrams":
        return _rarest(lookup, words)
    if count.kind in ("first_pair", "first_image"):
        keys = pair_key(batch, count)
    else:
        keys = batch["text_key"] if count.kind == "images_per_text" else image_key(batch, count.identity)
    missing = keys.is_null().to_numpy(zero_copy_only=False)
    values = lookup.values(keys.fill_null(0).to_numpy())
    if count.kind not in ("first_pair", "first_image"):
        return pa.array(values, pa.int64(), mask=missing | (values == 0))
    own = (np.int64(shard) << PLACE_BITS) + batch["row"].to_numpy() + 1
    places = [
        None if none or not value or value == here else f"{(value - 1) >> PLACE_BITS}/{(value - 1) & ((1 << PLACE_BITS) - 1)}"
        for none, value, here in zip(missing.tolist(), values.tolist(), own.tolist(), strict=True)
    ]
    return pa.array(places, pa.string())


def _rarest(lookup: Lookup, words: Tokens) -> pa.Array:
    """Return the smallest count of any unigram or bigram of each text: below the floor 0, or 1 where that is certain.

    No word is rarer than a bigram that it stands in, so words are looked up only where they stand alone.
    """
    texts = len(words.starts) - 1
    if not len(words.words):
        return pa.nulls(texts, pa.int64())
    bigrams, inside = words.bigrams()
    lengths = np.diff(words.starts)
    alone = words.starts[:-1][lengths == 1]
    counts = lookup.values(np.concatenate([bigrams[inside], words.words[alone]]))
    counts[counts == 0] = 1 if lookup.floor == 1 else 0
    smallest = np.full(len(words.words), np.iinfo(np.int64).max)
    smallest[:-1][inside] = counts[: len(counts) - len(alone)]
    smallest[alone] = counts[len(counts) - len(alone) :]
    rarest = np.zeros(texts, np.int64)
    rarest[lengths > 0] = np.minimum.reduceat(smallest, words.starts[:-1][lengths > 0])
    return pa.array(rarest, pa.int64(), mask=lengths == 0)


def load(storage: Storage, name: str) -> Lookup | None:
    """Return the committed counts of an output, or None."""
    meta = storage.read(f"counts/{name}/counts.json")
    return None if meta is None else Lookup(storage, name, int(json.loads(meta)["floor"]))
