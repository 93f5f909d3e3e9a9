"""Lists of hashes of images, as their providers give them: one hash a line, of one of six kinds.

    # what follows a # is not read
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08     64 digits: sha256 of the file
    a94a8fe5ccb19ba61c4c0873d391e987982fbbd3                             40 digits: sha1
    098f6bcd4621d373cade4e832627b4f6                                     32 digits: MD5
    imagehash:c3d2e1f0a5b49687                                           as str(imagehash.phash(image)) writes it
    phash:c3d2e1f0a5b49687                                               curate's own, the fact phash
    pdq:d8f8f0cec0f4a84f0637022a278f67f0b36e2ed596621e1d33e6b39c4e9c9b22 as pdqhash writes it, packed: 64 digits

The kind stands before a colon. Digits alone say it by their number; 16 alone do not say whose they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.core.errors import InputError, near
from curate.images.phash import Hashes

CONTENTS = {"sha256": 64, "sha1": 40, "md5": 32}
"""Hashes of the bytes of a file, and their hex digits."""

PERCEPTUAL = {"phash": 16, "imagehash": 16, "pdq": 64}
"""Perceptual hashes, and their hex digits."""

KINDS = {**CONTENTS, **PERCEPTUAL}
"""The hex digits of every kind."""

UNMARKED: dict[str, tuple[str, ...]] = {
    "either": ("phash", "imagehash"),
    "imagehash": ("imagehash",),
    "phash": ("phash",),
}
"""What 16 digits without a kind can be taken for."""

_BY_LENGTH = {digits: (kind,) for kind, digits in CONTENTS.items()}
_LINE = re.compile(r"(?:([a-z0-9]+):\s*)?([0-9a-f]+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """What lists hold, by kind: digests in lower-case hex, and perceptual hashes as uint64 [n], of pdq [n, 4], in their order."""

    contents: Mapping[str, frozenset[str]]
    perceptual: Mapping[str, Hashes]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of which there is at least one hash, in the order of KINDS."""
        return tuple(kind for kind in KINDS if kind in self.contents or kind in self.perceptual)


def parse(text: str, path: str, unmarked: str = "either") -> Listed:
    """Parse a list; 16 digits without a kind are of UNMARKED[unmarked]. Raises InputError with path:line."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            kinds, digits = one_hash(word, unmarked)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        for kind in kinds:
            found.setdefault(kind, []).append(digits)
    contents = {kind: frozenset(found[kind]) for kind in CONTENTS if kind in found}
    return Listed(contents, {kind: _packed(found[kind]) for kind in PERCEPTUAL if kind in found})


def one_hash(word: str, unmarked: str = "either") -> tuple[tuple[str, ...], str]:
    """Return the kinds that a hash of a list can be, and its digits in lower case. Raises ValueError."""
    parts = _LINE.fullmatch(word)
    if parts is None:
        raise ValueError(f"not a hash: {word[:80]!r}")
    kind, digits = (parts[1] or "").lower(), parts[2].lower()
    if kind and kind not in KINDS:
        raise ValueError(f"unknown kind {kind[:80]!r}{near(kind, KINDS)}: {', '.join(KINDS)}")
    if kind and len(digits) != KINDS[kind]:
        raise ValueError(f"{kind} has {KINDS[kind]} hex digits, not {len(digits)}")
    kinds = (kind,) if kind else {**_BY_LENGTH, 16: UNMARKED[unmarked]}.get(len(digits))
    if kinds is None:
        lengths = "sha256 (64 hex digits), sha1 (40), md5 (32) nor perceptual hash (16)"
        raise ValueError(f"neither {lengths}: {word[:80]!r}")
    return kinds, digits


def _packed(digits: Iterable[str]) -> Hashes:
    """Return perceptual hashes of one kind: uint64 [n], or [n, 4] of 256 bits."""
    rows = [words(bytes.fromhex(each)) for each in digits]
    return np.stack(rows)[:, 0] if rows[0].size == 1 else np.stack(rows)


def words(data: bytes) -> Hashes:
    """Return a perceptual hash of 8 bytes or more as uint64 [words], the highest bit first."""
    return np.frombuffer(data, ">u8").astype(np.uint64)


def read(path: str) -> bytes:
    """Return the bytes of a list. Raises InputError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"block list {path}: {error.strerror or error}") from error


@lru_cache(maxsize=16)
def load(path: str, digest: str, unmarked: str) -> Listed:
    """Return the list at `path`. Raises InputError when its content has another sha256 than `digest` (empty: not known)."""
    data = read(path)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"block list {path} changed during the run")
    return parse(data.decode("utf-8", errors="replace"), path, unmarked)


@lru_cache(maxsize=4)
def load_all(paths: tuple[tuple[str, str], ...], unmarked: str) -> Listed:
    """Return several lists, each a path and digest as of `load`, as one. Raises InputError."""
    lists = [load(path, digest, unmarked) for path, digest in paths]
    contents = {kind: [one.contents[kind] for one in lists if kind in one.contents] for kind in CONTENTS}
    perceptual = {kind: [one.perceptual[kind] for one in lists if kind in one.perceptual] for kind in PERCEPTUAL}
    return Listed(
        {kind: frozenset[str]().union(*parts) for kind, parts in contents.items() if parts},
        {kind: np.concatenate(parts) for kind, parts in perceptual.items() if parts},
    )


def distances(hashes: Hashes, listed: Hashes) -> npt.NDArray[np.int16]:
    """Return the smallest distance of hashes, uint64 [n, words], to listed ones (not empty), in 64ths of their bits, int16 [n].

    Of 256 bits, four different ones count as one, rounded up: PDQ's usual 31 is 8. Only equal hashes are 0 apart.
    """
    listed = listed.reshape(len(listed), -1)
    bits = [int(np.bitwise_count(listed ^ each).sum(axis=1).min()) for each in hashes]
    width = hashes.shape[1]
    return np.array([-(-count // width) for count in bits], np.int16)
