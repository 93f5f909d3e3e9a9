"""The JSON of a sample that an earlier run packed (see curate.passes.pack): its first key, its texts, and their scores.

It is known by its shape. Anything else, damaged or made up, is the JSON of a foreign tar, of which nothing is believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from curate.sources.kept import kept
from curate.sources.records import MAX_TEXT, UNSAFE_KEY

EARLIER_BYTES = MAX_TEXT
"""Bytes of the texts and scores of earlier runs that a record carries, as JSON: what is beyond is left out, text by text."""

_NAMES = frozenset(
    [
        *("url", "key", "shard", "row", "texts", "sha256", "width", "height", "format", "language", "language_score"),
        *("phash", "evidence"),
    ]
)
_OF_THE_IMAGE = ("reencoded", "mode", "color_profile", *(f"original_{name}" for name in ("sha256", "width", "height", "format")))
FIELDS = _NAMES | {"earlier_texts", "input", *_OF_THE_IMAGE}
"""Names in our `key.json` that say something of our own; a further field of the input under such a name is in `input`."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile(UNSAFE_KEY)

Text = dict[str, object]
"""A text of an earlier run: source, text, and scores by filter."""


class Own(NamedTuple):
    """What one of our own samples says of its record."""

    key: str  # the record's own in the first run
    texts: tuple[Text, ...]  # that the last run kept
    earlier_texts: str | None  # JSON: those of every run with the scores of the first that had them, without repetitions
    input: str | None  # JSON: further fields of the first run's input

    def web_texts(self, found: str | None) -> list[str]:
        """Return the record's texts, given that of key.txt: the web texts, unless key.txt was changed since."""
        kept = [str(one["text"]) for one in self.texts]
        web = [str(one["text"]) for one in self.texts if one["source"] == "web"]
        if found is None:
            return web or kept[:1]
        return (web or [found]) if found in kept else [found]


def own(fields: Mapping[str, object]) -> Own | None:
    """Return what the JSON of one of our own samples says; None for any other JSON."""
    if not (fields.keys() >= _NAMES and isinstance(fields["evidence"], dict)):
        return None
    key, digest = fields["key"], fields["sha256"]
    if not (isinstance(key, str) and isinstance(digest, str) and _SHA256.fullmatch(digest)):
        return None
    if not (isinstance(fields["shard"], str) and type(fields["row"]) is int):
        return None
    texts, earlier = _texts(fields["texts"]), _texts(fields.get("earlier_texts", []))
    if texts is None or earlier is None or _UNSAFE.search(key):
        return None
    try:
        key.encode()  # JSON can say what UTF-8 cannot
        return Own(key, texts, _packed(_merged((*earlier, *texts))), _further(fields))
    except ValueError:
        return None


def _further(fields: Mapping[str, object]) -> str | None:
    below = fields.get("input")
    return kept(
        {**fields, **(below if isinstance(below, dict) else {})}, FIELDS - below.keys() if isinstance(below, dict) else FIELDS
    )


def _texts(listed: object) -> tuple[Text, ...] | None:
    """Return the texts of a list, without nulls; None when it is not one of ours."""
    if not isinstance(listed, list) or not all(map(_is_text, listed)):
        return None
    return tuple({"source": one["source"], "text": one["text"], **_scores(one)} for one in listed if one["text"] is not None)


def _is_text(one: object) -> bool:
    if not isinstance(one, dict) or one.get("source") not in ("web", "synthetic"):
        return False
    return isinstance(one.get("text", 0), str | None)


def _scores(text: Text) -> Text:
    flat = {name: value for name, value in text.items() if isinstance(value, str | int | float | None)}
    return {name: value for name, value in flat.items() if name not in ("source", "text", "text_no")}


def _merged(texts: Iterable[Text]) -> Iterable[Text]:
    """Return every text once: what was said of it first counts, and what is said later only where there was nothing."""
    found: dict[tuple[object, object], Text] = {}
    for one in texts:
        held = found.setdefault((one["source"], one["text"]), {})
        held.update({name: value for name, value in one.items() if held.get(name) is None})
    return found.values()


def _packed(texts: Iterable[Text]) -> str | None:
    """Return texts as a JSON list. Raises ValueError for what is no JSON (not a number), or no UTF-8."""
    parts, size = [], len("[]")
    for one in texts:
        part = json.dumps(one, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        length = len(part.encode()) + len(",")
        if size + length <= EARLIER_BYTES:
            parts.append(part)
            size += length
    return f"[{','.join(parts)}]" if parts else None
