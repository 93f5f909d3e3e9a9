"""Pictures of records that one of two outputs keeps and the other drops, from the thumbnails of both."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.report import gallery
from curate.report.diff_join import JOIN, KEPT, RANK, SIDES, Pair, Place, Record
from curate.report.query import parquet_files
from curate.storage.backend import Storage

EACH = gallery.EACH

UNSEEN = frozenset({"blocklist", "nsfw", "removed"})
"""Images that fail one of these, in either output, are not drawn."""


@dataclass(frozen=True)
class Shelf:
    """Records with the same two verdicts, one of which is 'kept'."""

    a: str
    b: str
    pictures: tuple[gallery.Picture, ...]


def shelves(pair: Pair, a: Storage, b: Storage, rules: Sequence[str]) -> tuple[Shelf, ...]:
    """Return pictures of records that changed sides and have a thumbnail in either output, by the two verdicts.

    Raises OSError, and DuckDB's errors.
    """
    for side, out in zip(SIDES, (a, b), strict=True):
        pair.create_view(f"thumbs_{side}", parquet_files(out, "thumbs"), gallery.COLUMNS)
    chosen = _chosen(pair)
    records = pair.records([rank for _, _, rank in chosen], rules)
    places = {side: [_place(getattr(record, side)) for record in records.values()] for side in SIDES}
    thumbs = {side: _thumbs(pair, side, places[side]) for side in SIDES}
    held: dict[tuple[str, str], list[gallery.Picture]] = {}
    for one, other, rank in chosen:
        record = records[rank]
        thumb = thumbs["a"].get(_place(record.a)) or thumbs["b"].get(_place(record.b))
        evidence = record.b[0].get(other) if one == KEPT else record.a[0].get(one)
        held.setdefault((one, other), []).append(_picture(record, evidence, thumb))
    shown = gallery.fitting(list(held.values()), ())
    return tuple(Shelf(*verdicts, tuple(pictures[:shown])) for verdicts, pictures in held.items())


def _place(texts: Sequence[Mapping[str, Any]]) -> Place:
    return texts[0]["shard_index"], texts[0]["row"]


def _chosen(pair: Pair) -> list[tuple[str, str, int]]:
    """Return verdicts and ranks of a few records for each pair of verdicts."""
    of_side = (
        f"SELECT key1, key2 FROM keys_{side} k"
        f" SEMI JOIN (SELECT shard_index, row FROM thumbs_{side} WHERE thumb IS NOT NULL) t"
        " ON t.shard_index = k.shard AND t.row = k.row"
        for side in SIDES
    )
    pair.create_table("pictured", " UNION ".join(of_side))  # few, so that not all records need be joined
    one, other = (f"(SELECT * FROM keys_{side} SEMI JOIN pictured USING (key1, key2))" for side in SIDES)
    found = pair.rows(
        f"SELECT a.verdict, b.verdict, {RANK} AS rank FROM {one} a JOIN {other} b {JOIN}"
        f" WHERE (a.verdict = '{KEPT}') <> (b.verdict = '{KEPT}')"
        f" QUALIFY row_number() OVER (PARTITION BY a.verdict, b.verdict ORDER BY rank) <= {EACH}"
        " ORDER BY a.verdict::VARCHAR, b.verdict::VARCHAR, rank"
    )
    return [(one, other, rank) for one, other, rank in found]


def _thumbs(pair: Pair, side: str, places: Sequence[Place]) -> dict[Place, bytes]:
    if not places:
        return {}
    listed = ", ".join(f"({shard:d}, {row:d})" for shard, row in places)
    found = pair.rows(
        f"SELECT shard_index, row, min(thumb) FROM thumbs_{side} t SEMI JOIN (VALUES {listed}) w(shard, number)"
        " ON t.shard_index = w.shard AND t.row = w.number WHERE thumb IS NOT NULL GROUP BY ALL"
    )
    return {(shard, row): thumb for shard, row, thumb in found}


def _picture(record: Record, evidence: str | None, thumb: bytes | None) -> gallery.Picture:
    unseen = any({row["dropped_by"], *(row["failed"] or ())} & UNSEEN for row in (*record.a, *record.b))
    image = b"" if unseen else gallery.jpeg(thumb)
    first, encoded = record.a[0], base64.b64encode(image).decode()
    return gallery.Picture((first["key"] or "")[:200], first["text"], (evidence or "")[:200], encoded, size=len(image))
