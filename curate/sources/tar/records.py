"""The records of a tar: members with one key, the path up to the first dot of its last part; a record for each image of a key."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO, NamedTuple

import xxhash

from curate.core.contracts import ShardBreak
from curate.sources.fields import FIRST, Reading, names_of
from curate.sources.own import Own, own
from curate.sources.records import IMAGE_TYPES, MAX_IMAGE, MAX_JSON, MAX_TEXT, UNSAFE_KEY, Record, as_text, cut, decode, join
from curate.sources.tar.members import Cut, Member, content, members, shown
from curate.sources.texts import together

KEYS_REMEMBERED = 2_000_000  # about 140 MB; a repeated key is not noticed past so many records
IMAGES_HELD = 1000  # of one key, before its text is known
EXTENSIONS = 100
CAPTIONS = ("caption", "captions", "text", "alt", "TEXT", "alt_text", "title")

USUAL = Reading(CAPTIONS)
"""How a tar is read where nobody says otherwise."""

_ROLES = {name.encode(): "image" for name in IMAGE_TYPES} | {b"txt": "text", b"json": "json"}
_BOUNDS = {"image": MAX_IMAGE, "text": MAX_TEXT * 4 + 4, "json": MAX_JSON}
_UNSAFE = re.compile(UNSAFE_KEY)


class _Image(NamedTuple):
    """An image of a record: `inner` is what stands between the key and the extension, often nothing."""

    inner: bytes
    extension: bytes
    data: bytes | None
    offset: int | None
    codes: tuple[str, ...] = ()


class _Group:
    """The members of one key so far. Not a dataclass: a million are made, and slots halve their cost."""

    __slots__ = ("codes", "extensions", "fields", "images", "key", "reading", "roles", "several", "start", "texts")

    def __init__(self, key: bytes, start: int, codes: list[str], reading: Reading = USUAL) -> None:
        self.key, self.reading = key, reading
        self.start, self.codes = start, codes  # where its first member is
        self.several = False
        self.extensions: set[bytes] = set()
        self.roles: set[str] = set()
        self.images: list[_Image] = []
        self.texts: dict[bytes, tuple[str, list[str]]] = {}
        self.fields: dict[bytes, dict[str, object]] = {}

    def add(self, part: _Part, file: BinaryIO) -> None:
        """Read a member's data. Raises ShardBreak when the file ends before they do."""
        _, extension, role, member = part
        size = member.size
        self.extensions.add(extension)
        self.roles.add(role)
        inner = extension.rpartition(b".")[0]
        if size > _BOUNDS[role]:
            if role == "image":
                self.images.append(_Image(inner, extension, None, None, ("image_too_large",)))
                return
            if role == "json":
                self.codes.append("bad_json")
                return
            size = _BOUNDS[role]
        data = content(file, member, size)
        if len(data) < size:
            raise Cut(f"cut off while it was read, in member {shown(member.name)}", member.name)
        if role == "image":
            self.images.append(_Image(inner, extension, data, member.offset))
        elif role == "json":
            self._parse(inner, data)
        elif inner not in self.texts:
            codes: list[str] = []
            self.texts[inner] = decode(data, codes), codes

    def whole(self, before: _Group | None) -> bool:
        """Return whether nothing seems to be missing, judged by the kinds of members of the key before it."""
        return bool(self.images and self.texts) and self._kinds() >= (before._kinds() if before else set())

    def _kinds(self) -> set[bytes]:
        return {extension.rpartition(b".")[2] for extension in self.extensions}

    def _parse(self, inner: bytes, data: bytes) -> None:
        try:
            fields = json.loads(data.decode() if data[:1] == b"{" else data)  # else json guesses the encoding, slowly
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            self.fields[inner] = {**fields, **self.fields.get(inner, {})}
        else:
            self.codes.append("bad_json")

    def settled(self, part: _Part) -> Iterator[Record]:
        """Yield the records of images that have their own text, or are too many to hold, before a further image is read."""
        if part.extension.rpartition(b".")[0] == self.images[-1].inner:
            return
        held = sum(len(image.data or b"") for image in self.images)
        if held > MAX_IMAGE or len(self.images) >= IMAGES_HELD or all(image.inner in self.texts for image in self.images):
            self.several = True
            yield from self.records()
            self.images = []

    def records(self) -> Iterator[Record]:
        """Yield a record for each image, or one without an image."""
        if not self.several and len(self.images) < 2:
            yield self._only(self.images[0] if self.images else None)
            return
        inners = Counter(image.inner for image in self.images)
        for image in self.images:
            more = image.inner if inners[image.inner] == 1 else image.extension
            text, text_codes = self.texts.get(image.inner) or self._shared() or (None, [])
            fields = {**self._of_all(), **self.fields.get(image.inner, {})}
            yield self._record((self.key + b"." + more if more else self.key), image, fields, (text, [*text_codes]))

    def _shared(self) -> tuple[str, list[str]] | None:
        """Return the text that belongs to no image of the key, so to all."""
        inners = {image.inner for image in self.images}
        return self.texts.get(b"") or next((text for inner, text in self.texts.items() if inner not in inners), None)

    def _of_all(self) -> dict[str, object]:
        inners = {image.inner for image in self.images}
        return next((fields for inner, fields in self.fields.items() if not inner or inner not in inners), {})

    def _only(self, image: _Image | None) -> Record:
        text, codes = (self.texts.get(image.inner) if image else None) or next(iter(self.texts.values()), (None, []))
        fields: dict[str, object] = {}
        for some in self.fields.values():
            fields = {**some, **fields} if fields else some
        return self._record(self.key, image, fields, (text, codes))

    def _record(self, raw: bytes, image: _Image | None, fields: dict[str, object], found: tuple[str | None, list[str]]) -> Record:
        codes, known = [*self.codes], None if self.several or len(self.images) > 1 else own(fields)
        written, text_codes = found
        text, more = together(self._texts(known, fields, written, text_codes), text_codes)
        codes += ["missing_image"] if image is None else image.codes
        codes += ["missing_text"] if text is None else []
        named = self.reading.key_of(fields) if known is None else None
        key = raw.decode(errors="replace") if named is None else named + raw[len(self.key) :].decode(errors="replace")
        if named is None and not key.isascii() and key.encode() != raw:
            codes.append("key_not_utf8")
        if _UNSAFE.search(key):
            codes.append("unsafe_key")
        codes += text_codes
        error = join(codes) if codes else None
        data, offset = (image.data, image.offset) if image else (None, None)
        if known is None:
            further = self.reading.further(fields, written=written is not None) if fields else None
            return Record(key, self.reading.url_of(fields), text, error, data, offset, None, None, more, further)
        url = as_text(fields["url"])
        return Record(known.key, url, text, error, data, offset, None, known.earlier_texts, more, known.input)

    def _texts(self, known: Own | None, fields: dict[str, object], written: str | None, codes: list[str]) -> list[str]:
        """Return the texts as they are read; of one of our own samples its web texts."""
        if known is None or self.reading.text is not None:
            return self.reading.texts(fields, written, codes)
        return [text if text == written else cut(text, codes) for text in known.web_texts(written)]


class _Part(NamedTuple):
    """A member that is part of a record."""

    key: bytes
    extension: bytes
    role: str
    member: Member


def _parts(file: BinaryIO, reading: Reading, unknown: Counter[str] | None = None) -> Iterator[_Part]:
    """Yield the members that are part of a record; count the others in `unknown` by extension, the first EXTENSIONS kinds."""
    roles = {**_ROLES, **dict(reading.members)}
    for member in members(file):
        folder, slash, base = member.name.rpartition(b"/")
        stem, _, extension = base.partition(b".")
        role = roles.get(extension.rpartition(b".")[2].lower())
        if stem and role is not None:
            yield _Part(folder + slash + stem, extension, role, member)
        elif stem and unknown is not None and (len(unknown) < EXTENSIONS or shown(extension) in unknown):
            unknown[shown(extension)] += 1


def _is_part(roles: set[str]) -> bool:
    """Return whether members of these roles are only a part of a record."""
    return "image" not in roles or roles == {"image"}


def records(file: BinaryIO, reading: Reading = USUAL) -> Iterator[Record]:
    """Yield the records of a tar, which can seek. Raises ShardBreak after the last record that is surely whole.

    Members of a key that do not stand together make one record, at the place of its first one.
    """
    return iter(_Reader(file, reading))


class _Reader:
    def __init__(self, file: BinaryIO, reading: Reading) -> None:
        self.file, self.reading = file, reading
        self.seen: set[int] = set()
        self.apart: dict[bytes, list[list[_Part]]] | None = None
        self.unknown, self.has_image = Counter[str](), False
        self.taken: set[int] = set()  # places of runs that an earlier record has

    def __iter__(self) -> Iterator[Record]:
        group: _Group | None = None
        before: _Group | None = None
        try:
            for part in _parts(self.file, self.reading, self.unknown):
                if group is None or part.key != group.key or part.extension in group.extensions:
                    if group is not None:
                        yield from self._finished(group)
                        before = group
                    group = self._begun(part)
                if group.images and part.role == "image":
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

    def _is_whole(self, group: _Group, before: _Group | None) -> bool:
        return group.start in self.taken or group.whole(before)

    def _begun(self, part: _Part) -> _Group:
        start = part.member.offset
        return _Group(part.key, start, [] if start in self.taken else _repeated(part.key, self.seen), self.reading)

    def _finished(self, group: _Group) -> Iterator[Record]:
        """Yield the records of a run of members, with those of its key that stand elsewhere."""
        self.has_image = self.has_image or "image" in group.roles
        if group.start in self.taken:
            return
        if _is_part(group.roles):
            if self.apart is None:
                self.apart = _apart(self.file, self.reading)
            for run in self.apart.pop(group.key, ()):
                start = run[0].member.offset
                if start > group.start and not any(part.extension in group.extensions for part in run):
                    self.taken.add(start)
                    for part in run:
                        group.add(part, self.file)
        yield from group.records()


def _apart(file: BinaryIO, reading: Reading) -> dict[bytes, list[list[_Part]]]:
    """Return the runs of members that are only a part of a record, of keys with several; bytes of members are not read."""
    found: dict[bytes, list[list[_Part]]] = {}
    run: list[_Part] = []
    extensions: set[bytes] = set()

    def end() -> None:
        if run and _is_part({part.role for part in run}):
            found.setdefault(run[0].key, []).append([*run])
        run.clear()
        extensions.clear()

    with suppress(Cut):  # told by who reads the records
        for part in _parts(file, reading):
            if run and (part.key != run[0].key or part.extension in extensions):
                end()
            run.append(part)
            extensions.add(part.extension)
    end()
    return {key: runs for key, runs in found.items() if len(runs) > 1}


def field_names(file: BinaryIO, reading: Reading = USUAL) -> list[str]:
    """Return the names of the fields in the first JSON files of a tar, with dots where they are in objects."""
    found: dict[str, None] = {}
    with suppress(Cut):
        for part in islice((part for part in _parts(file, reading) if part.role == "json"), FIRST):
            group = _Group(part.key, part.member.offset, [])
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
