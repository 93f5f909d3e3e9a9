"""Freeing what no output uses of a store of facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, takewhile

import numpy as np
import numpy.typing as npt

from curate.core.errors import InUse, OutputError
from curate.driver import identity
from curate.fetch.image_log import piece_fingerprint
from curate.storage.backend import Storage, storage
from curate.storage.lease import BEAT_SECONDS
from curate.storage.shared_facts import USERS, users
from curate.storage.store import FETCHED, FETCHED_TARS, Store

_SHARED = "crashing_rows"  # by shard alone


@dataclass
class Use:
    """What the outputs of a store use: providers, and the fingerprints of their shards."""

    outputs: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # entries of outputs that do not exist any more
    providers: set[str] = field(default_factory=set)
    fingerprints: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True)
class Freed:
    """What was freed, or would be."""

    outputs: list[str]  # that use the store
    providers: dict[str, int]  # bytes by provider, and of `fetched`

    @property
    def bytes(self) -> int:
        """Return the sum."""
        return sum(self.providers.values())


def use_of(store: Storage) -> Use:
    """Return what is used of a store. Raises OutputError where it is none."""
    found = Use()
    for entry, root in users(store):
        out = Store(storage(root))
        was = identity.held(out)
        if was is None:
            found.gone.append(entry)
            continue
        found.outputs.append(root)
        found.providers |= set(was.providers)
        found.fingerprints = np.union1d(found.fingerprints, identity.shards_of(out, was).fingerprints)
    if not found.outputs and not found.gone:
        raise OutputError(f"{store.root} is no store of facts: no output uses it ({USERS}/ is empty)")
    return found


def collect(store: Storage, *, dry_run: bool = False, beat: float = BEAT_SECONDS) -> Freed:
    """Remove the facts and fetched images that no output of a store uses. Raises OutputError while a run is in one of them.

    What killed runs left there is freed, too. `beat` is the seconds between renewals of leases.
    """
    if dry_run:
        return _freed(store, use_of(store))
    with _at_rest(store, beat):
        use = use_of(store)
        freed = _freed(store, use, remove=True)
        store.remove(use.gone)
    return freed


@contextmanager
def _at_rest(store: Storage, beat: float) -> Iterator[None]:
    """Hold all outputs of a store: a run may have listed facts that the output's last finished run did not need."""
    with ExitStack() as held:
        for _, root in users(store):
            out = Store(storage(root), beat=beat)
            try:
                if out.was_held():
                    held.enter_context(out.locked())
            except InUse as error:
                raise OutputError(f"{store.root} is in use: {error.holder} is writing to {root}; wait for it") from None
        yield


def _freed(store: Storage, use: Use, *, remove: bool = False) -> Freed:
    freed = dict[str, int]()
    for provider in store.folders("facts"):
        sizes = {**dict(_unused(store, provider, use)), **dict(Store(store).unmarked_facts(provider))}
        freed |= {provider: sum(sizes.values())} if sizes else {}
        if remove:
            _check_same(store, use)
            store.remove(sizes)
    return Freed(use.outputs, freed)


def _check_same(store: Storage, use: Use) -> None:
    """Raise OutputError if a run with a new output has begun meanwhile."""
    if new := [root for entry, root in users(store) if root not in use.outputs and entry not in use.gone]:
        raise OutputError(f"{store.root} is in use: a run into {new[0]} has just begun; wait for it")


def _unused(store: Storage, provider: str, use: Use) -> Iterator[tuple[str, int]]:
    """Yield name and size of what no output uses of a provider: marks first, so that a kill leaves no mark without its data."""
    folders = (f"facts/{provider}", *([FETCHED_TARS] if provider == FETCHED else []))
    files = [(f"{folder}/{found.name}", found.size) for folder in folders for found in store.listing(folder)]
    there = {_fingerprint(name) for name, _ in files}
    known = _pieces(use.fingerprints, there) if provider == FETCHED else {f"{one:016x}" for one in use.fingerprints.tolist()}
    used = known if provider in use.providers or provider in (FETCHED, _SHARED) else set()
    for name, size in sorted(files, key=lambda file: (not file[0].endswith(".json"), file[0])):
        if len(_fingerprint(name)) == 16 and _fingerprint(name) not in used:
            yield name, size


def _fingerprint(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _pieces(fingerprints: npt.NDArray[np.uint64], there: set[str]) -> set[str]:
    """Return the fingerprints of the pieces of fetched images that some shards have."""
    numbers = (
        takewhile(there.__contains__, (piece_fingerprint(f"{one:016x}", n) for n in count())) for one in fingerprints.tolist()
    )
    return set(chain.from_iterable(numbers))
