"""The records of a tar: runs of members with one key, the path up to the first dot of its last part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import xxhash

from curate.core.contracts import ShardBreak
from curate.sources.fields import FIRST, Reading, names_of
from curate.sources.records import IMAGE_TYPES, MAX_IMAGE, MAX_JSON, MAX_TEXT, UNSAFE_KEY, Record, as_text, cut, decode, join
from curate.sources.tar.members import Cut, Member, members, shown
from curate.sources.tar.own import Own, own
from curate.sources.texts import Texts, together

KEYS_REMEMBERED = 2_000_000  # about 140 MB; a repeated key is not noticed past so many records
CAPTIONS = ("caption", "captions", "text", "alt", "TEXT", "alt_text", "title")

USUAL = Reading(CAPTIONS)
"""How a tar is read where nobody says otherwise."""

_ROLES = {name.encode(): "image" for name in IMAGE_TYPES} | {b"txt": "text", b"json": "json"}
_BOUNDS = {"image": MAX_IMAGE, "text": MAX_TEXT * 4 + 4, "json": MAX_JSON}
_UNSAFE = re.compile(UNSAFE_KEY)


class _Group:
    """The members of one record so far. Not a dataclass: a million are made, and slots halve their cost."""

    __slots__ = ("codes", "extensions", "fields", "has_image", "image", "key", "offset", "text", "text_codes")

    def __init__(self, key: bytes, codes: list[str]) -> None:
        self.key = key
        self.codes = codes
        self.extensions: set[bytes] = set()
        self.has_image = False
        self.image: bytes | None = None
        self.offset: int | None = None
        self.text: str | None = None
        self.text_codes: list[str] = []
        self.fields: dict[str, object] = {}

    def add(self, role: str, member: Member, file: BinaryIO) -> None:
        """Read a member's data. Raises ShardBreak when the file ends before they do."""
        name, offset, size = member
        if role == "image":
            self.has_image = True
        if size > _BOUNDS[role]:
            if role != "text":
                self.codes.append("image_too_large" if role == "image" else "bad_json")
                return
            size = _BOUNDS[role]
        data = file.read(size)
        if len(data) < size:
            raise Cut(f"cut off while it was read, in member {shown(name)}", name)
        if role == "image":
            self.image, self.offset = data, offset
        elif role == "json":
            self._parse(data)
        elif self.text is None:
            self.text = decode(data, self.text_codes)

    def whole(self, before: set[bytes]) -> bool:
        """Return whether nothing seems to be missing, judged by the extensions of the record before it."""
        return self.has_image and self.text is not None and self.extensions >= before

    def _parse(self, data: bytes) -> None:
        try:
            fields = json.loads(data.decode() if data[:1] == b"{" else data)  # else json guesses the encoding, slowly
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            self.fields = {**fields, **self.fields} if self.fields else fields
        else:
            self.codes.append("bad_json")

    def record(self, reading: Reading) -> Record:
        """Return the record that the members make."""
        codes, known = self.codes, own(self.fields)
        text, more = self._texts(known, reading)
        if not self.has_image:
            codes.append("missing_image")
        if text is None:
            codes.append("missing_text")
        named = reading.key_of(self.fields) if known is None else None
        key = self.key.decode(errors="replace") if named is None else named
        if named is None and not key.isascii() and key.encode() != self.key:
            codes.append("key_not_utf8")
        if _UNSAFE.search(key):
            codes.append("unsafe_key")
        codes += self.text_codes
        error = join(codes) if codes else None
        if known is None:
            further = reading.further(self.fields, written=self.text is not None) if self.fields else None
            return Record(key, reading.url_of(self.fields), text, error, self.image, self.offset, None, None, more, further)
        return Record(
            known.key,
            as_text(self.fields["url"]),
            text,
            error,
            self.image,
            self.offset,
            None,
            known.earlier_texts,
            more,
            known.input,
        )

    def _texts(self, known: Own | None, reading: Reading) -> Texts:
        """Return the texts as they are read; of one of our own samples its web texts."""
        codes = self.text_codes
        if known is None or reading.text is not None:
            return together(reading.texts(self.fields, self.text, codes), codes)
        return together([text if text == self.text else cut(text, codes) for text in known.web_texts(self.text)], codes)


def records(file: BinaryIO, reading: Reading = USUAL) -> Iterator[Record]:
    """Yield the records of a tar. Raises ShardBreak after the last record that is surely whole."""
    group: _Group | None = None
    seen: set[int] = set()
    before: set[bytes] = set()
    try:
        for member in members(file):
            folder, slash, base = member.name.rpartition(b"/")
            stem, _, extension = base.partition(b".")
            role = _ROLES.get(extension.rpartition(b".")[2].lower())
            if not stem or role is None:
                continue
            key = folder + slash + stem
            again = group is not None and key == group.key and role == "image" and group.has_image
            if group is None or key != group.key or again or extension in group.extensions:
                if group is not None:
                    yield group.record(reading)
                    before = group.extensions
                group = _Group(key, ["second_image"] if again else _repeated(key, seen))
            group.extensions.add(extension)
            group.add(role, member, file)
    except Cut as cut:
        if group is not None and (group.whole(before) if cut.between else not cut.hits(group.key)):
            yield group.record(reading)
        raise ShardBreak(str(cut)) from None
    if group is not None:
        yield group.record(reading)


def field_names(file: BinaryIO) -> list[str]:
    """Return the names of the fields in the first JSON files of a tar, with dots where they are in objects."""
    found: dict[str, None] = {}
    group, left = _Group(b"", []), FIRST
    with suppress(Cut):
        for member in members(file):
            if member.name.lower().endswith(b".json"):
                group.fields = {}
                group.add("json", member, file)
                found |= dict.fromkeys(names_of(group.fields))
                left -= 1
            if not left:
                break
    return list(found)


def _repeated(key: bytes, seen: set[int]) -> list[str]:
    digest = xxhash.xxh3_64_intdigest(key)
    if digest in seen:
        return ["duplicate_key"]
    if len(seen) < KEYS_REMEMBERED:
        seen.add(digest)
    return []
