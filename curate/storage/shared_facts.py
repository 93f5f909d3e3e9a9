"""An output whose facts are elsewhere, in a store that several outputs share: a second recipe computes only what is new.

OUT/facts.json names the store; STORE/outputs/ names the outputs that use it. Two runs may write to a store at once: facts are
written under the name of an attempt, then a mark names them, and every attempt writes the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from curate.core.errors import InputError, OutputError
from curate.storage.backend import Found, Storage, storage

PLACE, USERS = "facts.json", "outputs"

_FOLDERS = ("facts", "fetched")


@dataclass(frozen=True)
class SharedFacts(Storage):
    """The storage of an output: its folders of facts are those of the store, everything else is its own."""

    out: Storage
    store: Storage

    @property
    def own(self) -> Storage:
        """Return the output without the store."""
        return self.out

    def parts(self) -> tuple[Storage, ...]:
        """Return output and store."""
        return self.out, self.store

    def _of(self, name: str) -> Storage:
        return self.store if name.partition("/")[0] in _FOLDERS else self.out

    def url(self, name: str) -> str:
        return self._of(name).url(name)

    def read(self, name: str) -> bytes | None:
        return self._of(name).read(name)

    def write(self, name: str, data: bytes) -> None:
        self._of(name).write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        return self._of(name).create(name, data)

    def size(self, name: str) -> int | None:
        return self._of(name).size(name)

    def writing(self, name: str) -> AbstractContextManager[Path]:
        return self._of(name).writing(name)

    def reading(self, name: str) -> AbstractContextManager[Path]:
        return self._of(name).reading(name)

    def listing(self, folder: str) -> Iterator[Found]:
        return self._of(folder).listing(folder)

    def folders(self, folder: str) -> list[str]:
        return self._of(folder).folders(folder)

    def remove(self, names: Iterable[str]) -> None:
        found = list(names)
        for part in self.parts():
            part.remove([name for name in found if self._of(name) is part])

    def move(self, old: str, new: str) -> None:
        self._of(old).move(old, new)

    def remove_folder(self, folder: str) -> None:
        self._of(folder).remove_folder(folder)


def with_facts(out: Storage, given: str | None = None) -> Storage:
    """Return the storage of an output with the facts where it has them: in the store that is given, or that it was begun with.

    Raises InputError for a store inside the output or around it.
    """
    recorded = json.loads(out.read(PLACE) or b"{}").get("store")
    if given is None and recorded is None:
        return out
    store = storage(given or recorded)
    if (store.root + "/").startswith(out.root + "/") or (out.root + "/").startswith(store.root + "/"):
        raise InputError(f"--facts {store.root} and the output {out.root} overlap; choose another folder")
    return SharedFacts(out.root, out, store)


def enter(place: Storage) -> None:
    """Record in an output with shared facts where they are, and in the store that the output uses them."""
    if not isinstance(place, SharedFacts):
        return
    if place.store.size("output.json") is not None or place.store.size("manifest.json") is not None:
        raise OutputError(f"{place.store.root} is an output; name another folder as --facts")
    place.out.write(PLACE, json.dumps({"store": place.store.root}).encode())
    name = xxhash.xxh3_64_hexdigest(place.out.root.encode())
    place.store.write(f"{USERS}/{name}.json", json.dumps({"out": place.out.root}).encode())


def users(store: Storage) -> Iterator[tuple[str, str]]:
    """Yield the outputs that use a store: the name of the entry, and the output's path or URL."""
    for found in sorted(store.listing(USERS)):
        if found.name.endswith(".json"):
            yield f"{USERS}/{found.name}", str(json.loads(store.read(f"{USERS}/{found.name}") or b"{}").get("out", ""))
