"""Pictures for the report: a bounded, reproducible sample of the thumbnails that the image pass stored."""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.report.query import View, opened, parquet_files, quoted
from curate.storage.backend import Storage

EACH = 24
PAIRS = 16
BUDGET = 2_000_000  # bytes of all thumbnails, before base64
LARGEST = 64 * 1024  # bytes of one thumbnail; at 160 px none is that large
_VERDICT = "category IS NOT NULL AND texts IS NULL"
_PLACE = "md5(concat(shard_index, '/', row)), shard_index, row, text"
_LARGE = ("thumb", "match_thumb", "key", "reason")
COLUMNS = {
    "shard_index": "INTEGER",
    "row": "BIGINT",
    "category": "VARCHAR",
    "thumb": "BLOB",
    "key": "VARCHAR",
    "text": "VARCHAR",
    "reason": "VARCHAR",
    "match": "VARCHAR",
    "match_thumb": "BLOB",
    "texts": "VARCHAR",
}


@dataclass(frozen=True)
class Text:
    """A text of a record: its source, its scores by filter, and the filter that dropped it."""

    source: str
    text: str
    scores: tuple[tuple[str, str], ...]
    dropped_by: str | None


@dataclass(frozen=True)
class Picture:
    """A record. `image` and `match_image` are JPEGs in base64, or empty; sizes in bytes."""

    key: str
    text: str | None
    reason: str
    image: str
    match: str = ""
    match_image: str = ""
    size: int = 0
    match_size: int = 0
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures of one category ('kept', or the filter that dropped them), chosen from `sampled` stored ones."""

    name: str
    pictures: tuple[Picture, ...]
    sampled: int


@dataclass(frozen=True)
class Galleries:
    """The pictures of a report: a gallery per verdict, records that match an evaluation image, records with captions."""

    by_verdict: list[Gallery]
    leaked: list[Picture]
    captioned: list[Picture]


def galleries(out: Storage, order: Sequence[str]) -> Galleries:
    """Choose pictures for each category, in `order` and then by name, and for the other two kinds.

    Raises OutputError if a thumbnail file cannot be read.
    """
    files = parquet_files(out, "thumbs")
    with opened(files, COLUMNS) as view:
        view.hold(without=_LARGE)
        counts = dict(view.rows(f"SELECT category, count(*) FROM data WHERE {_VERDICT} GROUP BY category"))
        places = _chosen(view)
    found = _shown(files, places) if places else []
    by_name: dict[str, list[Picture]] = {name: [] for name in order if name in counts}
    for name in sorted(counts.keys() - by_name.keys()):
        by_name[name] = []
    for row in found:
        if row["texts"] is None and row["category"] is not None and len(shelf := by_name[row["category"]]) < EACH:
            shelf.append(replace(_picture(row), match="", match_image="", match_size=0))
    pairs = [_picture(row) for row in found if row["category"] == "eval_overlap" and row["match"] is not None][:PAIRS]
    captioned = [_picture(row) for row in found if row["texts"] is not None][:PAIRS]
    shown = fitting([*by_name.values(), captioned], pairs)
    shelves = [Gallery(name, tuple(by_name[name][:shown]), counts[name]) for name in by_name]
    return Galleries(shelves, pairs[:shown], captioned[:shown])


def _chosen(view: View) -> list[tuple[int, int]]:
    """Return shard and row of the first rows of each kind (at most EACH or PAIRS), and maybe others, by a hash of both.

    So the choice is the same everywhere.
    """
    kinds = {_VERDICT: EACH, "category = 'eval_overlap' AND match IS NOT NULL": PAIRS, "texts IS NOT NULL": PAIRS}
    first = " OR ".join(
        f"({kind} AND row_number() OVER (PARTITION BY {kind}, {group} ORDER BY {_PLACE}) <= {limit})"
        for (kind, limit), group in zip(kinds.items(), ("category", "1", "1"), strict=True)
    )
    return view.rows(f"SELECT DISTINCT shard_index, row FROM (SELECT shard_index, row FROM data QUALIFY {first})")


def _shown(files: Sequence[str], places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Read what is shown of some rows, with their thumbnails, in the order of their hash."""
    shards = {f"{shard:06d}.parquet" for shard, _ in places}
    names, some = list(COLUMNS), ", ".join(f"({shard}, {row})" for shard, row in places)
    columns = ", ".join(map(quoted, names))
    with opened([file for file in files if posixpath.basename(file) in shards], COLUMNS) as view:
        rows = view.rows(f"SELECT {columns} FROM data WHERE (shard_index, row) IN ({some}) ORDER BY {_PLACE}")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _picture(row: Mapping[str, Any]) -> Picture:
    image, match_image = jpeg(row["thumb"]), jpeg(row["match_thumb"])
    text = None if row["text"] is None else row["text"][:600]
    return Picture(
        key=(row["key"] or "")[:200],
        text=text,
        reason=(row["reason"] or "")[:200],
        image=base64.b64encode(image).decode(),
        match=(row["match"] or "")[:200],
        match_image=base64.b64encode(match_image).decode(),
        size=len(image),
        match_size=len(match_image),
        texts=tuple(_text(one) for one in json.loads(row["texts"] or "[]")),
    )


def _text(found: Mapping[str, Any]) -> Text:
    scores = {name: value for name, value in found.items() if name not in ("text_no", "source", "text", "dropped_by")}
    shown = tuple((name, "no score" if value is None else f"{value:.2f}") for name, value in scores.items())
    return Text(str(found["source"]), str(found["text"]), shown, found["dropped_by"])


def jpeg(found: bytes | None) -> bytes:
    """Return a thumbnail; empty unless it is a JPEG of plausible size."""
    return found if found and found.startswith(b"\xff\xd8\xff") and len(found) <= LARGEST else b""


def fitting(shelves: Sequence[Sequence[Picture]], pairs: Sequence[Picture]) -> int:
    """Return how many pictures of each shelf fit into BUDGET."""
    for shown in (EACH, 20, 16, 12, 8, 6, 4, 2):
        size = sum(one.size for shelf in shelves for one in shelf[:shown])
        if size + sum(one.size + one.match_size for one in pairs[:shown]) <= BUDGET:
            return shown
    return 1
