"""Facts of a text that need nothing else: its normal form, its words, and the 64-bit keys that corpus counts use.

The normal form, used for every comparison and count but never stored in place of the text: Unicode NFKC, casefold,
runs of whitespace to one space, ends stripped. Its space-separated tokens are what corpus counts hash; how many words a text
has, with scripts that know no spaces, is told by curate.stages.words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.stages import words as counting

Keys = npt.NDArray[np.uint64]

FORM = 1
"""The version of the normal form and its tokens, which partial counts are made of."""

# ASCII white space that split() would change: any but a single space between two words
_LOOSE_SPACE = r"[\x09-\x0d\x1c-\x1f]|^ |  | $"

_PIECE = 1 << 20  # bytes of texts that are hashed at once
_BASE = 0x9FB21C651E98DF25  # odd, so that it has an inverse
_BIGRAM = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


def normalise(text: str) -> str:
    r"""Return the normal form of a text.

    >>> normalise(" The\tＣＡＴ \n sat ")
    'the cat sat'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    # NFKC again: casefolding can leave a sequence that is not in that form
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def normalised(texts: pa.Array) -> pa.Array:
    """Return the normal form of each text (string array; null stays null)."""
    lower = pc.ascii_lower(texts)  # all that most texts need
    others = pc.or_(pc.invert(pc.string_is_ascii(texts)), pc.match_substring_regex(texts, _LOOSE_SPACE))
    rest = others.fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003 - Arrow's signature
    if not rest.any():
        return lower
    rest = pa.array(rest)
    done = pa.array([normalise(text) for text in _objects(texts.filter(rest))], pa.string())
    return pc.replace_with_mask(lower, rest, done)


def _objects(values: pa.Array) -> list[Any]:
    """Return Arrow values as Python's: 5 times faster than to_pylist for strings."""
    found: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
    return found


def hash_strings(values: pa.Array) -> Keys:
    """Return xxh3-64 of each string's UTF-8 bytes, as uint64; 0 for null."""
    data = _objects(values.drop_null().cast(pa.binary()))
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, data), np.uint64, len(data))
    if len(hashes) == len(values):
        return hashes
    keys = np.zeros(len(values), np.uint64)
    keys[values.is_valid().to_numpy(zero_copy_only=False)] = hashes
    return keys


@dataclass(frozen=True)
class Tokens:
    """The words of a batch of texts as hashes: text i has words[starts[i]:starts[i + 1]]."""

    starts: npt.NDArray[np.int64]
    words: Keys

    def bigrams(self) -> tuple[Keys, npt.NDArray[np.bool_]]:
        """Return a key for each word and its successor, and where that pair stays within one text (length words - 1)."""
        inside = np.ones(max(len(self.words) - 1, 0), np.bool_)
        ends = self.starts[1:-1]
        ends = ends[(ends > 0) & (ends < len(self.words))]
        inside[ends - 1] = False
        return mix(self.words[:-1], self.words[1:]), inside


def mix(left: Keys, right: Keys) -> Keys:
    """Return one well-mixed 64-bit key for each ordered pair (the finaliser of MurmurHash3 over a linear combination)."""
    key: Keys = left * _BIGRAM + np.bitwise_xor(right, right >> np.uint64(32)) + np.uint64(0x2545F4914F6CDD1D)
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xFF51AFD7ED558CCD)
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xC4CEB9FE1A85EC53)
    key ^= key >> np.uint64(33)
    return key


def tokens(normal: pa.Array) -> Tokens:
    """Split normal forms at spaces and hash each word. Null and empty texts have no words."""
    data, offsets = _laid_out(normal)
    if not len(data):
        return Tokens(np.zeros(len(normal) + 1, np.int64), np.empty(0, np.uint64))
    hashes, starts, first = [], [np.zeros(1, np.int64)], 0
    while first < len(normal):  # in pieces: a byte takes 24 while it is hashed
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _PIECE, side="right")) - 1)
        bounds = offsets[first : last + 1]
        words, ends = _hash_words(data[bounds[0] : bounds[-1]], bounds - bounds[0])
        starts.append(ends + starts[-1][-1])
        hashes.append(words)
        first = last
    return Tokens(np.concatenate(starts), np.concatenate(hashes))


def _laid_out(normal: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of all texts, one behind the other, and where each begins, with the end of the last."""
    filled = normal.fill_null("")
    offsets = np.frombuffer(filled.buffers()[1] or bytes(4), np.int32)[filled.offset :][: len(filled) + 1].astype(np.int64)
    if offsets[0] == offsets[-1]:
        return np.empty(0, np.uint8), offsets - offsets[0]
    return np.frombuffer(filled.buffers()[2], np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def _hash_words(data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Hash the words of texts that lie one behind the other in `data`; also return how many words there are by each text's end.

    A word's hash is the sum over its bytes of table[byte] * base**position, which differences of one running sum give.
    """
    powers, inverses = _powers(1 << max(16, len(data).bit_length()))
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(_table().take(data) * powers[: len(data)], out=sums[1:])
    spaces = np.flatnonzero(data == ord(" "))
    filled = bounds[:-1] < bounds[1:]
    starts = np.sort(np.concatenate([bounds[:-1][filled], spaces + 1]), kind="stable")  # two sorted runs: merged, not sorted
    ends = np.sort(np.concatenate([bounds[1:][filled], spaces]), kind="stable")
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    before = np.searchsorted(spaces, bounds[1:]) + np.cumsum(filled)
    return mix(hashes, (ends - starts).astype(np.uint64)), before


@lru_cache(maxsize=8)
def _powers(size: int) -> tuple[Keys, Keys]:
    """Return base**0, base**1, ... modulo 2**64, and what each must be multiplied by to become 1."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        steps = np.full(size, base, np.uint64)
        steps[0] = 1
        both.append(np.cumprod(steps, dtype=np.uint64))
    return both[0], both[1]


@lru_cache(maxsize=1)
def _table() -> Keys:
    return mix(np.arange(256, dtype=np.uint64), np.full(256, 0xD6E8FEB86659FD93, np.uint64))


@dataclass(frozen=True)
class TextStage(Stage):
    """Words and characters of the normal form, and `text_key`, its xxh3-64 (null where there is no text).

    `segmenter` says what finds the words of scripts without spaces; by default, the best that this machine has.
    """

    segmenter: str = field(default_factory=counting.installed)

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 2
    cost: ClassVar[float] = 4e-6
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact(
            "words",
            pa.int32(),
            "text",
            "unigrams of the normalised text: see caption_words",
            shown=True,
        ),
        Fact("characters", pa.int32(), "text", "code points of the normalised text", shown=True),
    )
    reads = ("text",)

    def __call__(self, batch: Batch) -> Batch:
        """Add words and characters (int32)."""
        return add_columns(batch, self.of(normalised(batch["text"])))

    def note(self) -> str:
        """Return in a sentence how words are counted where no spaces part them."""
        return counting.described(self.segmenter)

    def of(self, normal: pa.Array) -> dict[str, pa.Array]:
        """Return words and characters (int32) of normal forms. Raises ModelError where the segmenter is not here."""
        missing = normal.is_null().to_numpy(zero_copy_only=False)
        characters = pc.utf8_length(normal).cast(pa.int32())
        return {"words": pa.array(_words(normal, self.segmenter), mask=missing), "characters": characters}


def _words(normal: pa.Array, segmenter: str) -> npt.NDArray[np.int32]:
    """Return the number of words of normal forms: of ASCII by their spaces, none where there is no letter."""
    data, offsets = _laid_out(normal)
    words = np.zeros(len(normal), np.int32)
    filled = np.flatnonzero(offsets[:-1] < offsets[1:])
    if not len(filled):
        return words
    starts = offsets[filled]
    words[filled] = np.add.reduceat((data == ord(" ")).view(np.uint8), starts, dtype=np.int32) + 1
    highest = np.maximum.reduceat(data, starts)  # tells nearly every text that is plain
    words[filled[highest < ord("a")]] = 0
    signs = filled[(highest > ord("z")) & (highest < 0x80)]
    words[signs[~pc.match_substring_regex(normal.take(pa.array(signs)), "[a-z]").to_numpy(zero_copy_only=False)]] = 0
    others = filled[highest >= 0x80]
    if len(others):
        words[others] = counting.count_words(_objects(normal.take(pa.array(others))), segmenter)
    return words


def add_columns(batch: Batch, columns: dict[str, pa.Array]) -> Batch:
    """Return `batch` with columns appended (a stage's answer)."""
    names: Sequence[str] = [*batch.schema.names, *columns]
    return pa.RecordBatch.from_arrays([*batch.columns, *columns.values()], names=names)
