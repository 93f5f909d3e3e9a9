"""The members of a tar with one key, and the records that they make: one for each image."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from curate.sources.fields import Reading
from curate.sources.own import Own, own
from curate.sources.records import IMAGE_TYPES, MAX_IMAGE, MAX_TEXT, UNSAFE_KEY, Record, as_text, cut, decode, join
from curate.sources.tar.header import shown
from curate.sources.tar.members import Cut, Member, content
from curate.sources.texts import together

IMAGES_HELD = 1000  # of one key, before its text is known
CAPTIONS = ("caption", "captions", "text", "alt", "TEXT", "alt_text", "title")

USUAL = Reading(CAPTIONS)
"""How a tar is read where nobody says otherwise."""

ROLES = {name.encode(): "image" for name in IMAGE_TYPES} | {b"txt": "text", b"json": "json"}
"""What members are, by the last part of their extensions."""

_BOUNDS = {"image": MAX_IMAGE, "text": MAX_TEXT * 4 + 4}
_UNSAFE = re.compile(UNSAFE_KEY)


class Kind(NamedTuple):
    """What follows the key in a member's name: of `left.jpg`, `inner` is `left` (often nothing) and `last` is `jpg`."""

    extension: bytes
    inner: bytes
    last: bytes
    role: str

    @classmethod
    def of(cls, extension: bytes, roles: dict[bytes, str]) -> Kind | None:
        """Return the kind of an extension; None where members that have it are no part of a record."""
        inner, _, last = extension.rpartition(b".")
        role = roles.get(last.lower())
        return None if role is None else cls(extension, inner, last, role)


class Part(NamedTuple):
    """A member that is part of a record."""

    key: bytes
    kind: Kind
    member: Member


class _Image(NamedTuple):
    """An image of a record; without data when it is too large."""

    kind: Kind
    data: bytes | None
    offset: int | None


class Group:
    """The members of one key so far. Not a dataclass: a million are made, and slots halve their cost."""

    __slots__ = ("codes", "fields", "images", "key", "kinds", "reading", "several", "start", "texts")

    def __init__(self, key: bytes, start: int, codes: list[str], reading: Reading = USUAL) -> None:
        self.key, self.reading = key, reading
        self.start, self.codes = start, codes  # where its first member is
        self.several = False
        self.kinds: dict[bytes, Kind] = {}
        self.images: list[_Image] = []
        self.texts: dict[bytes, tuple[str, list[str]]] = {}
        self.fields: dict[bytes, dict[str, object]] = {}

    def add(self, part: Part, file: BinaryIO) -> None:
        """Read a member's data. Raises ShardBreak when the file ends before they do."""
        _, kind, member = part
        size, bound = member.size, _BOUNDS.get(kind.role, self.reading.max_json)
        self.kinds[kind.extension] = kind
        if size > bound:
            if kind.role == "image":
                self.images.append(_Image(kind, None, None))
                return
            if kind.role == "json":
                self.codes.append("bad_json")
                return
            size = bound
        data = content(file, member, size)
        if len(data) < size:
            raise Cut(f"cut off while it was read, in member {shown(member.name)}", member.name)
        if kind.role == "image":
            self.images.append(_Image(kind, data, member.offset))
        elif kind.role == "json":
            self._parse(kind.inner, data)
        elif kind.inner not in self.texts:
            codes: list[str] = []
            self.texts[kind.inner] = decode(data, codes), codes

    def roles(self) -> set[str]:
        """Return what its members are: image, text, json."""
        return {kind.role for kind in self.kinds.values()}

    def whole(self, before: Group | None) -> bool:
        """Return whether nothing seems to be missing, judged by the kinds of members of the key before it."""
        return bool(self.images and self.texts) and self._lasts() >= (before._lasts() if before else set())

    def _lasts(self) -> set[bytes]:
        return {kind.last for kind in self.kinds.values()}

    def _parse(self, inner: bytes, data: bytes) -> None:
        try:
            fields = json.loads(data.decode() if data[:1] == b"{" else data)  # else json guesses the encoding, slowly
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            self.fields[inner] = {**fields, **self.fields[inner]} if inner in self.fields else fields
        else:
            self.codes.append("bad_json")

    def settled(self, part: Part) -> Iterator[Record]:
        """Yield the records of images that have their own text, or are too many to hold, before a further image is read."""
        if part.kind.inner == self.images[-1].kind.inner:
            return
        held = sum(len(image.data or b"") for image in self.images)
        if held > MAX_IMAGE or len(self.images) >= IMAGES_HELD or all(image.kind.inner in self.texts for image in self.images):
            self.several = True
            yield from self._each()
            self.images = []

    def records(self) -> Iterable[Record]:
        """Return a record for each image, or one without an image."""
        if self.several or len(self.images) > 1:
            return self._each()
        return (self._only(self.images[0] if self.images else None),)

    def _each(self) -> Iterator[Record]:
        inners = Counter(image.kind.inner for image in self.images)
        for image in self.images:
            extension, inner, _, _ = image.kind
            more = inner if inners[inner] == 1 else extension
            text, text_codes = self.texts.get(inner) or self._shared() or (None, [])
            fields = {**self._of_all(), **self.fields.get(inner, {})}
            yield self._record((self.key + b"." + more if more else self.key), image, fields, None, text, [*text_codes])

    def _shared(self) -> tuple[str, list[str]] | None:
        """Return the text that belongs to no image of the key, so to all."""
        inners = {image.kind.inner for image in self.images}
        return self.texts.get(b"") or next((text for inner, text in self.texts.items() if inner not in inners), None)

    def _of_all(self) -> dict[str, object]:
        inners = {image.kind.inner for image in self.images}
        return next((fields for inner, fields in self.fields.items() if not inner or inner not in inners), {})

    def _only(self, image: _Image | None) -> Record:
        texts = self.texts
        text, codes = (texts.get(image.kind.inner) if image else None) or next(iter(texts.values()), (None, []))
        fields: dict[str, object] = {}
        for some in self.fields.values():
            fields = {**some, **fields} if fields else some
        return self._record(self.key, image, fields, own(fields), text, codes)

    def _record(  # noqa: PLR0913 - what a record is made of
        self, raw: bytes, image: _Image | None, fields: dict[str, object], known: Own | None, written: str | None, more: list[str]
    ) -> Record:
        """Return a record, given its key, what its JSON says, and its text file with its error codes."""
        codes, reading = self.codes.copy(), self.reading
        text, others = together(self._texts(known, fields, written, more), more)
        if image is None:
            codes.append("missing_image")
        elif image.data is None:
            codes.append("image_too_large")
        if text is None:
            codes.append("missing_text")
        named = reading.key_of(fields) if known is None else None
        key = raw.decode(errors="replace") if named is None else named + raw[len(self.key) :].decode(errors="replace")
        if named is None and not key.isascii() and key.encode() != raw:
            codes.append("key_not_utf8")
        if _UNSAFE.search(key):
            codes.append("unsafe_key")
        codes += more
        error = join(codes) if codes else None
        _, data, offset = image or (None, None, None)
        if known is None:
            further = reading.further(fields, written=written is not None) if fields else None
            return Record(key, reading.url_of(fields), text, error, data, offset, None, None, others, further)
        url = as_text(fields["url"])
        return Record(known.key, url, text, error, data, offset, None, known.earlier_texts, others, known.input)

    def _texts(self, known: Own | None, fields: dict[str, object], written: str | None, codes: list[str]) -> list[str]:
        """Return the texts as they are read; of one of our own samples its web texts."""
        if known is None or self.reading.text is not None:
            return self.reading.texts(fields, written, codes)
        return [text if text == written else cut(text, codes) for text in known.web_texts(written)]
