"""Small pictures for the report: of each category (kept, or the filter that dropped) the records with the smallest hashes."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core import watchdog
from curate.core.contracts import Pictures
from curate.core.verdicts import REMOVED
from curate.fetch.image_log import ImageReader
from curate.images.thumbnails import blurred, thumbnail
from curate.passes.veil import Drawn, Veil, with_images
from curate.planning.plan import Plan
from curate.stages.eval_overlap import EvalDistanceStage, EvalSimilarityStage
from curate.stages.text import mix
from curate.storage.parquet import ParquetWriter

SCHEMA = pa.schema(
    [
        ("shard_index", pa.int32()),
        ("row", pa.int64()),
        ("category", pa.string()),  # dropped_by, 'kept', or CAPTIONS
        ("thumb", pa.binary()),  # JPEG of at most 160 px; null when it does not decode
        ("key", pa.string()),
        ("text", pa.string()),
        ("reason", pa.string()),  # the evidence, as text
        ("match", pa.string()),  # the evaluation image that is nearest
        ("match_thumb", pa.binary()),
        ("drawn", pa.string()),  # 'shown', 'blurred' or 'hidden': both pictures
        ("texts", pa.string()),  # JSON, of category 'captions': every text of the record with its scores and verdict
    ]
)

CAPTIONS = "captions"
"""Category of records whose texts are shown side by side: the web text and the captions, kept or not."""

SIZE = 48
"""Pictures of a category over the whole corpus, about; a shard contributes its share, at least 2."""

FEW_SHARDS = SIZE // 2
"""Inputs of more shards have the same number of samples a shard, 2."""

_IMAGES = ["row", "offset", "bytes"]
_TEXT = 300  # characters of a text that the report shows


def per_shard(shards: int) -> int:
    """Return how many records of each category a shard samples."""
    return min(24, max(2, SIZE // max(1, shards)))


@dataclass(frozen=True)
class Thumb:
    """The picture of a record, a JPEG, and how it is drawn; no picture where it is hidden or does not decode."""

    picture: bytes | None
    drawn: Pictures


def thumbs_in(path: Path) -> dict[int, Thumb]:
    """Return the thumbnails of a file that `Sampler.write` wrote, by row."""
    table = pq.read_table(path, columns=["row", "thumb", "drawn"])
    rows = zip(*(table[name].to_pylist() for name in ("row", "thumb", "drawn")), strict=True)
    return {row: Thumb(picture, drawn) for row, picture, drawn in rows if picture is not None or drawn == "hidden"}


def fewer(path: Path, size: int) -> pa.Table | None:
    """Return what a sampler of `size` records a category would have written, from the file of one with more; None for no more."""
    table = pq.read_table(path)
    hashes = mix(table["row"].to_numpy().astype(np.uint64), table["shard_index"].to_numpy().astype(np.uint64))
    keep = np.zeros(table.num_rows, np.bool_)
    categories = table["category"].to_numpy()
    for category in dict.fromkeys(categories):
        where = np.flatnonzero(categories == category)
        keep[where[np.argsort(hashes[where], kind="stable")[:size]]] = True
    return None if keep.all() else table.filter(pa.array(keep))


def write_thumbs(path: Path, table: pa.Table) -> None:
    """Write a file of thumbnails."""
    writer = ParquetWriter(path, SCHEMA)
    writer.write(table)
    writer.close()


class Sampler:
    """Keeps the k records of each category whose hash of (shard, row) is smallest: the same ones whatever the order."""

    def __init__(self, plan: Plan, size: int) -> None:
        self._size = size
        searched = [s.sets for s in plan.stages() if isinstance(s, EvalSimilarityStage | EvalDistanceStage)]
        self._sets = searched[0] if searched else ()
        self._held: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
        self._veil = Veil(plan)
        self._scores = [step.name for step in plan.steps if step.rule.per_text]
        self.skipped: Collection[int] = ()  # rows that killed a worker once
        self.thumbs: dict[int, Thumb] = {}  # that are made already, by row

    def offer(self, table: pa.Table) -> None:
        """Look at a batch of decisions."""
        if not self._size or not table.num_rows:
            return
        rows = table["row"].to_numpy()
        hashes = mix(rows.astype(np.uint64), table["shard_index"].to_numpy().astype(np.uint64))
        categories = table["dropped_by"].fill_null("kept").combine_chunks().dictionary_encode()
        codes, sources = categories.indices.to_numpy(), table["source"].to_numpy()
        same, made = np.zeros(len(rows), np.bool_), sources == "synthetic"
        same[1:] = rows[1:] == rows[:-1]
        again = same & ~made & (codes == np.roll(codes, 1))  # a further web text with the verdict of the one before
        for code, category in enumerate(categories.dictionary.to_pylist()):
            if category == REMOVED:
                continue
            where = np.flatnonzero((codes == code) & ~again)
            for place in where[np.argsort(hashes[where], kind="stable")[: self._size]].tolist():
                self._hold(category, int(hashes[place]), table, place)
        written = np.flatnonzero(made & ~(same & np.roll(made, 1)))  # the first caption of each record
        for place in written[np.argsort(hashes[written], kind="stable")[: self._size]].tolist():
            self._hold(CAPTIONS, int(hashes[place]), table, place)

    def _hold(self, category: str, rank: int, table: pa.Table, place: int) -> None:
        held = self._held.setdefault(category, [])
        if len(held) == self._size and -held[0][0] <= rank:
            return
        record = {name: table[name][place].as_py() for name in ("shard_index", "row", "key", "text")}
        evidence = table[category][place].as_py() if category in table.schema.names else None
        shown = f"{evidence:.4g}" if isinstance(evidence, float) else str(evidence)
        record["category"], record["reason"] = category, None if evidence is None else shown
        record["drawn"] = self._veil.drawn(table["failed"][place].as_py(), table["not_evaluated"][place].as_py())
        record["match"] = table["eval_match"][place].as_py() if "eval_match" in table.schema.names else None
        record["text"] = record["text"][:_TEXT] if record["text"] else record["text"]
        if category == CAPTIONS:
            record["texts"] = json.dumps(self._texts(table, record["row"]), ensure_ascii=False)
        item = (-rank, -table["text_no"][place].as_py(), record)
        (heapq.heappushpop if len(held) == self._size else heapq.heappush)(held, item)

    def _texts(self, table: pa.Table, row: int) -> list[dict[str, Any]]:
        """Return the texts of a record with their scores and what dropped them."""
        names = ["text_no", "source", "text", "dropped_by", *self._scores]
        found = table.select(names).filter(pc.equal(table["row"], row)).to_pylist()
        return [{**text, "text": (text["text"] or "")[:_TEXT]} for text in found]

    def write(self, path: Path, locate: Callable[[npt.NDArray[np.int64]], pa.Table], opened: ImageReader) -> None:
        """Write the sampled records with their pictures, by row."""
        records = sorted((record for held in self._held.values() for _, _, record in held), key=lambda record: record["row"])
        self._make({record["row"]: record["drawn"] for record in records}, locate, opened)
        for record in records:
            thumb, match = self.thumbs[record["row"]], self._match(record)
            record["thumb"], record["drawn"] = thumb.picture, thumb.drawn
            record["match_thumb"] = _veiled(match, thumb.drawn)
        write_thumbs(path, pa.Table.from_pylist(records, schema=SCHEMA))

    def _make(self, drawn: dict[int, Drawn], locate: Callable[[npt.NDArray[np.int64]], pa.Table], opened: ImageReader) -> None:
        """Make the thumbnails that are missing, by row. A hidden image is not opened."""
        missing = {row: one for row, one in drawn.items() if row not in self.thumbs}
        self.thumbs.update({row: Thumb(None, one.how) for row, one in missing.items()})
        new = [row for row, one in missing.items() if one.how != "hidden"]
        if not new:
            return
        located = locate(np.array(new, np.int64))
        images = list(opened.images(located.select(_IMAGES)))  # a few dozen
        seen = [place for place, (row, image) in enumerate(zip(new, images, strict=True)) if image and row not in self.skipped]
        if not seen:
            return
        rows, found = [new[place] for place in seen], [images[place] or b"" for place in seen]
        facts = with_images(located.take(pa.array(seen, pa.int64())), found)
        for row, image, how in zip(rows, found, self._veil.lifted([drawn[row] for row in rows], facts), strict=True):
            self.thumbs[row] = Thumb(_veiled(_picture(row, image), how) if how != "hidden" else None, how)

    def _match(self, record: dict[str, Any]) -> bytes | None:
        if record["category"] != "eval_overlap" or record["match"] is None:
            return None
        from curate.stages.evalsets import thumbnail as evaluation_thumbnail

        found = record["match"]
        for ref in self._sets:
            if found.startswith(f"{ref.name}/"):
                picture = evaluation_thumbnail(ref, found[len(ref.name) + 1 :])
                if picture is not None:
                    return picture
        return None


def _picture(row: int, image: bytes) -> bytes | None:
    """Return the thumbnail. For a record that an early filter dropped this is the first decode, or the second by its `Veil`."""
    with watchdog.row(row):
        return thumbnail(image)


def _veiled(picture: bytes | None, how: Pictures) -> bytes | None:
    if picture is None or how == "hidden":
        return None
    return blurred(picture) if how == "blurred" else picture
