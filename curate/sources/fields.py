"""The JSON beside an image, in a tar or a folder: which of its fields are the record's text, url and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curate.sources.records import URLS, as_text, first
from curate.sources.texts import of_fields, of_lines, of_lists, of_value

Fields = Mapping[str, object]


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

    @classmethod
    def of(cls, captions: Sequence[str], columns: Sequence[tuple[str, str]]) -> Reading:
        """Return what the columns of a shard say."""
        named = dict(columns)
        return cls(captions, named.get("text"), named.get("url"), named.get("key"), named.get("texts") == "lines")

    def texts(self, fields: Fields, written: str | None, codes: list[str]) -> list[str]:
        """Return the texts of a record: of the field that is named, else of its text file or the usual field, and of lists."""
        if self.text is not None:
            return of_value(field_of(fields, self.text), codes)
        if written is None:
            return of_fields(fields, self.captions, codes)
        return [*(of_lines(written) if self.lines else [written]), *of_lists(fields, codes)]

    def url_of(self, fields: Fields) -> str | None:
        """Return the address of the image."""
        return first(fields, URLS) if self.url is None else as_text(field_of(fields, self.url))

    def key_of(self, fields: Fields) -> str | None:
        """Return the key where a field is named for it."""
        return None if self.key is None else as_text(field_of(fields, self.key))


def beside_images(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that mean something where images are files: the others are of tables in the same input."""
    return {role: name for role, name in columns.items() if role in ("text", "url", "key", "texts")}


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
