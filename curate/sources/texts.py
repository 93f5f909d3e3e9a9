"""The texts of a record, where its input may have several: each once, in their order, none that is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from curate.sources.records import MAX_TEXT, MAX_TEXTS, as_text

LISTS = ("captions", "caption")
"""Fields whose value may be a list: all of its items are texts, also where another field has the first one."""


class Texts(NamedTuple):
    """The first text of a record, and the others."""

    first: str | None
    more: list[str] | None


NO_TEXT = Texts(None, None)


def of_value(value: object, codes: list[str]) -> list[str]:
    """Return the texts that a JSON value or a table's cell holds (see `as_text`): those of a list are all of them.

    >>> of_value(["a dog", " ", None, "a dog", "a cat"], []), of_value("a dog", []), of_value([], [])
    (['a dog', 'a cat'], ['a dog'], [])
    """
    if not isinstance(value, list):
        text = as_text(value, codes)
        return [] if text is None else [text]
    found = (as_text(item, codes) for item in value if not isinstance(item, list))
    return list(dict.fromkeys(text for text in found if text is not None and text.strip()))


def of_fields(fields: Mapping[str, object], names: Sequence[str], codes: list[str]) -> list[str]:
    """Return the texts of the first of the fields `names` that holds any, and then those of lists in LISTS."""
    found: list[str] = []
    for name in names:
        if name in fields and (found := of_value(fields[name], codes)):
            break
    return [*found, *of_lists(fields, codes)]


def of_lists(fields: Mapping[str, object], codes: list[str]) -> list[str]:
    """Return the texts of lists in LISTS."""
    if fields.keys().isdisjoint(LISTS):  # nearly all
        return []
    lists = [value for value in map(fields.get, LISTS) if isinstance(value, list)]
    return [text for value in lists for text in of_value(value, codes)]


def of_lines(text: str) -> list[str]:
    r"""Return the lines of a text that are not empty, without white space around them, each once.

    >>> of_lines("a dog\r\n\n a cat \na dog")
    ['a dog', 'a cat']
    """
    return list(dict.fromkeys(line for line in map(str.strip, text.split("\n")) if line))


def together(found: Sequence[str], codes: list[str]) -> Texts:
    """Return the texts of a record, equal ones once; an error code is appended where some do not fit."""
    texts = list(dict.fromkeys(found)) if len(found) > 1 else found
    if len(texts) < 2:
        return Texts(texts[0], None) if texts else NO_TEXT
    size, fitting = 0, []
    for text in texts[1:MAX_TEXTS]:
        size += len(text)
        if size > MAX_TEXT:
            break
        fitting.append(text)
    if len(fitting) < len(texts) - 1:
        codes.append("too_many_texts")
    return Texts(texts[0], fitting or None)
