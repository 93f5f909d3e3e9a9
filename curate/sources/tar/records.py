"""The records of a tar: members with one key, the path up to the first dot of its last part; a record for each image of a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice, takewhile
from typing import BinaryIO

import xxhash

from curate.core.contracts import ShardBreak
from curate.sources.fields import FIRST, Reading, names_of
from curate.sources.records import Record
from curate.sources.tar.group import ROLES, USUAL, Group, Kind, Part
from curate.sources.tar.header import shown
from curate.sources.tar.members import Cut, last_names, members

KEYS_REMEMBERED = 2_000_000  # about 140 MB; a repeated key is not noticed past so many records
EXTENSIONS = 100
_ALL = {"image", "text", "json"}
_SLASH = ord("/")


def _parts(file: BinaryIO, reading: Reading, unknown: Counter[str] | None = None) -> Iterator[Part]:
    """Yield the members that are part of a record; count the others in `unknown` by extension, the first EXTENSIONS kinds."""
    roles = _roles(reading)
    kinds: dict[bytes, Kind | None] = {}
    for member in members(file):
        name = member.name
        dot = _end_of_key(name)
        if not dot or name[dot - 1] == _SLASH:  # no key at all
            continue
        extension = name[dot + 1 :]
        if extension not in kinds:
            if len(kinds) > EXTENSIONS:
                kinds.clear()
            kinds[extension] = Kind.of(extension, roles)
        kind = kinds[extension]
        if kind is not None:
            yield Part(name[:dot], kind, member)
        elif unknown is not None and (len(unknown) < EXTENSIONS or shown(extension) in unknown):
            unknown[shown(extension)] += 1


def _roles(reading: Reading) -> dict[bytes, str]:
    return {**ROLES, **dict(reading.members)}


def _end_of_key(name: bytes) -> int:
    dot = name.find(b".", name.rfind(b"/") + 1)
    return len(name) if dot < 0 else dot


def _is_part(roles: set[str]) -> bool:
    """Return whether members of these roles are only a part of a record."""
    return "image" not in roles or len(roles) == 1


def records(file: BinaryIO, reading: Reading = USUAL) -> Iterator[Record]:
    """Yield the records of a tar, which can seek. Raises ShardBreak after the last record that is surely whole.

    Members of a key that do not stand together make one record, at the place of its first one.
    """
    return iter(_Reader(file, reading))


class _Reader:
    def __init__(self, file: BinaryIO, reading: Reading) -> None:
        self.file, self.reading = file, reading
        self.seen: set[int] = set()
        self.apart: dict[bytes, list[list[Part]]] | None = None
        self.unknown, self.has_image = Counter[str](), False
        self.taken: set[int] = set()  # places of runs that an earlier record has

    def __iter__(self) -> Iterator[Record]:
        group: Group | None = None
        before: Group | None = None
        try:
            for part in _parts(self.file, self.reading, self.unknown):
                if group is None or part.key != group.key or part.kind.extension in group.kinds:
                    if group is not None:
                        yield from self._finished(group)
                        before = group
                    group = self._begun(part)
                if group.images and part.kind.role == "image":
                    yield from group.settled(part)
                group.add(part, self.file)
        except Cut as cut:
            if group is not None and (self._is_whole(group, before) if cut.between else not cut.hits(group.key)):
                yield from self._finished(group)
            raise ShardBreak(str(cut)) from None
        if group is not None:
            yield from self._finished(group)
        if self.unknown and not self.has_image:
            met = ", ".join(f".{name} ({count})" for name, count in self.unknown.most_common(8))
            known = "say which are images with --member image=EXTENSION"
            raise ShardBreak(f"no image among its members; their extensions are not known: {met}; {known}")

    def _is_whole(self, group: Group, before: Group | None) -> bool:
        return group.start in self.taken or group.whole(before)

    def _begun(self, part: Part) -> Group:
        start = part.member.offset
        return Group(part.key, start, [] if start in self.taken else _repeated(part.key, self.seen), self.reading)

    def _finished(self, group: Group) -> Iterable[Record]:
        """Return the records of a run of members, with those of its key that stand elsewhere."""
        if group.start in self.taken:
            return ()
        roles = group.roles()
        self.has_image = self.has_image or "image" in roles
        if _is_part(roles) or (len(roles) < len(_ALL) and self._ends_in_parts):
            if self.apart is None:
                self.apart = _apart(self.file, self.reading)
            for run in self.apart.pop(group.key, ()):
                if run[0].member.offset > group.start and _belongs(run, group):
                    self.taken.add(run[0].member.offset)
                    for part in run:
                        group.add(part, self.file)
        return group.records()

    @cached_property
    def _ends_in_parts(self) -> bool:
        """Return whether the last members belong to images that stand elsewhere, by a look at the tar's end.

        So tars of images and texts alone, the most frequent ones, are not searched for JSON that does not come.
        """
        roles, names = _roles(self.reading), last_names(self.file)
        last = [(name[: _end_of_key(name)], Kind.of(name[_end_of_key(name) + 1 :], roles)) for name in names]
        known = [(key, kind.role) for key, kind in last if kind is not None]
        return bool(known) and all(role != "image" for _, role in takewhile(lambda one: one[0] == known[-1][0], known[::-1]))


def _belongs(run: Sequence[Part], group: Group) -> bool:
    """Return whether a run of members may be the rest of a group with its key: not where both have images, and one more."""
    if any(part.kind.extension in group.kinds for part in run):
        return False
    roles = {part.kind.role for part in run}
    return "image" not in roles or (_is_part(roles) and _is_part(group.roles())) or "image" not in group.roles()


def _apart(file: BinaryIO, reading: Reading) -> dict[bytes, list[list[Part]]]:
    """Return the runs of members that may be a part of a record, of keys with several; bytes of members are not read."""
    found: dict[bytes, list[list[Part]]] = {}
    run: list[Part] = []
    extensions: set[bytes] = set()

    def end() -> None:
        if run and len({part.kind.role for part in run}) < len(_ALL):
            found.setdefault(run[0].key, []).append([*run])
        run.clear()
        extensions.clear()

    with suppress(Cut):  # told by who reads the records
        for part in _parts(file, reading):
            if run and (part.key != run[0].key or part.kind.extension in extensions):
                end()
            run.append(part)
            extensions.add(part.kind.extension)
    end()
    return {key: runs for key, runs in found.items() if len(runs) > 1}


def field_names(file: BinaryIO, reading: Reading = USUAL) -> list[str]:
    """Return the names of the fields in the first JSON files of a tar, with dots where they are in objects."""
    found: dict[str, None] = {}
    with suppress(Cut):
        for part in islice((part for part in _parts(file, reading) if part.kind.role == "json"), FIRST):
            group = Group(part.key, part.member.offset, [])
            group.add(part, file)
            for fields in group.fields.values():
                found |= dict.fromkeys(names_of(fields))
    return list(found)


def _repeated(key: bytes, seen: set[int]) -> list[str]:
    digest = xxhash.xxh3_64_intdigest(key)
    if digest in seen:
        return ["duplicate_key"]
    if len(seen) < KEYS_REMEMBERED:
        seen.add(digest)
    return []
