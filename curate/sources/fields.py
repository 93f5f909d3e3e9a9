"""The JSON beside an image, in a tar or a folder: which of its fields are the record's text, url and key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from curate.core.errors import InputError, near
from curate.sources.kept import kept, said
from curate.sources.records import MAX_JSON, URLS, as_text, first
from curate.sources.source import JSON_BYTES, MEMBER, Columns
from curate.sources.texts import LISTS, of_fields, of_lines, of_lists, of_value

Fields = Mapping[str, object]

FIRST = 100
"""Records whose fields are looked at before a run, to see whether a name is there."""

MOST = 40
"""Names that a message lists."""

DEEP = 3
"""Objects in objects whose names are listed."""


@dataclass(frozen=True)
class Reading:
    """Which fields are read: those of `columns` (role and name), else the usual ones."""

    captions: Sequence[str]
    """Fields that are tried for the text where none is named, the likeliest first."""

    text: str | None = None
    url: str | None = None
    key: str | None = None
    lines: bool = False
    """Each line of a text file is a text."""

    members: tuple[tuple[bytes, str], ...] = ()
    """Extensions of members of a tar that are said to be images, texts or JSON (image, text, json)."""

    max_json: int = MAX_JSON
    """Bytes of the largest JSON that is read."""

    @classmethod
    def of(cls, captions: Sequence[str], columns: Sequence[tuple[str, str]]) -> Reading:
        """Return what the columns of a shard say."""
        named = dict(columns)
        members = tuple((role.removeprefix(MEMBER).encode(), name) for role, name in columns if role.startswith(MEMBER))
        most, lines = int(named.get(JSON_BYTES, MAX_JSON)), named.get("texts") == "lines"
        return cls(captions, named.get("text"), named.get("url"), named.get("key"), lines, members, most)

    def texts(self, fields: Fields, written: str | None, codes: list[str]) -> list[str]:
        """Return the texts of a record: of the field that is named, else of its text file or the usual field, and of lists."""
        if self.text is not None:
            return of_value(field_of(fields, self.text), codes)
        if written is None:
            return of_fields(fields, self.captions, codes)
        here = of_lines(written) if self.lines else [written]
        return [*here, *of_lists(fields, codes)] if fields else here

    def url_of(self, fields: Fields) -> str | None:
        """Return the address of the image."""
        return first(fields, URLS) if self.url is None else as_text(field_of(fields, self.url))

    def further(self, fields: Fields, *, written: bool) -> str | None:
        """Return the scalars that are none of these, as JSON. `written`: the text is that of a file."""
        used = [self.url or next((name for name in URLS if fields.get(name) is not None), "")]
        if self.text is not None or self.key is not None:
            used += said({role: name for role, name in (("text", self.text), ("key", self.key)) if name is not None})
        if self.text is None:
            used += LISTS
            used += () if written else [name for name in self.captions if of_value(fields.get(name), [])][:1]
        return kept(fields, used)

    def key_of(self, fields: Fields) -> str | None:
        """Return the key where a field is named for it."""
        return None if self.key is None else as_text(field_of(fields, self.key))


def beside_images(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that mean something where images are files: the others are of tables in the same input."""
    used = {role: name for role, name in columns.items() if role in ("text", "url", "key", "texts")}
    return used | (columns.of_files if isinstance(columns, Columns) else {})


def check_named(url: str, names: Iterable[str], columns: Iterable[tuple[str, str]]) -> None:
    """Raise InputError where a field that a column names is not among `names`, those of a shard's first records."""
    known = list(dict.fromkeys(names))
    for role, name in columns:
        if role != "texts" and " " not in role and name not in known:
            there = f"there are {', '.join(known[:MOST])}" if known else "there is no JSON beside them"
            raise InputError(f"{url}: no field {name} for {role} beside its first images; {there}{near(name, known)}")


def names_of(fields: Fields, before: str = "") -> Iterator[str]:
    """Yield the names of fields, as `field_of` takes them.

    >>> list(names_of({"url": "u", "meta": {"caption": "a dog"}}))
    ['url', 'meta', 'meta.caption']
    """
    for name, value in fields.items():
        yield before + name
        if isinstance(value, Mapping) and before.count(".") < DEEP:
            yield from names_of(value, f"{before}{name}.")


def field_of(fields: Fields, name: str) -> object:
    """Return the value of a field; a name with dots is also looked for in the objects that it leads through.

    >>> field_of({"meta": {"caption": "a dog"}}, "meta.caption"), field_of({"a.b": 1}, "a.b"), field_of({}, "a")
    ('a dog', 1, None)
    """
    if name in fields:
        return fields[name]
    outer, dot, inner = name.partition(".")
    below = fields.get(outer)
    return field_of(below, inner) if dot and isinstance(below, Mapping) else None
