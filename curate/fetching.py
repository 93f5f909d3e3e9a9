"""The task between counting and judging, where records name their images by url: fetch those that the filters left.

What arrives is committed in pieces (see curate.fetched), so a kill loses the images of one piece and the next attempt asks
only for what is missing. Rows of a shard with the same url share one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.activity import Activities
from curate.contracts import IMAGE_ROWS, Report, Shard
from curate.fetch import Got, Wanted, fetch
from curate.fetch.manners import Manners
from curate.fetched import HEADER, SCHEMA, Log, Piece
from curate.judge import Judge
from curate.pack import member_header
from curate.scan import content_keys
from curate.sources.records import BATCH_BYTES, image_array
from curate.stages.header import HeaderStage
from curate.store import ParquetWriter
from curate.walk import walking

PIECE_IMAGES = 5_000
PIECE_BYTES = 512 << 20
PIECE_SECONDS = 60.0
"""When a piece ends: it is what a kill can lose, and what a worker holds of a remote OUT on its disk."""

Download = Callable[[Sequence[Wanted], Manners], Generator[Got, None, None]]


@dataclass(frozen=True)
class Fetch:
    """The task: fetches the images of a scanned shard that are asked for and not known, and commits them."""

    judge: Judge  # whose walk says which are asked for
    manners: Manners
    retry: bool = False  # ask again for what could not be fetched
    download: Download | None = None  # default: curate.fetch.fetch

    @property
    def marks(self) -> str:
        """Return the folder of its marks: other counts ask for other images."""
        return self.judge.marks.replace("judge", "fetch")

    def __call__(self, shard: Shard) -> Report:
        """Fetch for one scanned shard."""
        activities = Activities()
        with walking(self.judge, shard, activities) as walk:
            wanted = _Wishes(chain.from_iterable(walk.to_fetch(facts, retry=self.retry).to_pylist() for facts in walk.batches()))
            walk.commit()
        log, began = Log(self.judge.store, shard), time.process_time()
        with closing(_arriving(wanted, self.download or fetch, self.manners)) as arriving:
            pieces = _Pieces(log, self.judge.plan.header)
            while pieces.write(arriving):
                pass
        activities.seconds["fetch"] = time.process_time() - began  # of the core: what is waited for costs none
        known = log.table()
        failed = pc.sum(pc.not_equal(known["fetched"], "ok")).as_py() or 0
        done = {"asked": known.num_rows, "failed": failed}
        self.judge.store.commit(self.judge.run, f"{self.marks}/{shard.index:06d}", done)
        return Report(shard.index, wanted.rows, activities.seconds, {**activities.rows, "fetch": wanted.rows})


class _Wishes:
    """The urls that a shard wants, and for which rows."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.rows = 0
        self.without: list[int] = []  # rows that name no url
        self.of: dict[str, tuple[list[int], str | None]] = {}
        for record in records:
            self.rows += 1
            if record["url"] is None:
                self.without.append(record["row"])
            else:
                self.of.setdefault(record["url"], ([], record["given_sha256"]))[0].append(record["row"])


@dataclass(frozen=True)
class _Arrived:
    """What came for some rows: an image, or why there is none."""

    rows: list[int]
    error: str | None
    body: bytes | None


def _arriving(wanted: _Wishes, download: Download, manners: Manners) -> Generator[_Arrived, None, None]:
    yield from (_Arrived([row], "missing_url", None) for row in wanted.without)
    rows_of = {rows[0]: rows for rows, _ in wanted.of.values()}
    asked = [Wanted(rows[0], url, given) for url, (rows, given) in wanted.of.items()]
    if asked:
        with closing(download(asked, manners)) as answers:
            for got in answers:
                yield _Arrived(rows_of.pop(got.row), got.error, got.body)
    if rows_of:
        raise RuntimeError(f"{len(rows_of)} urls were not answered by the downloader")


@dataclass(frozen=True)
class _Pieces:
    """Writes what arrives into pieces."""

    log: Log
    header: HeaderStage

    def write(self, arriving: Iterator[_Arrived]) -> bool:
        """Write one piece of what arrives next; return whether there was anything."""
        first = next(arriving, None)
        if first is None:
            return False
        with self.log.writing() as piece:
            self._fill(piece, chain([first], arriving))
        return True

    def _fill(self, piece: Piece, arriving: Iterator[_Arrived]) -> None:
        known: list[pa.RecordBatch] = []
        images, until = 0, time.monotonic() + PIECE_SECONDS
        with piece.tar.open("wb", buffering=1 << 20) as tar:
            while some := _some(arriving):
                places = [_add(tar, one) for one in some]
                known.append(self._facts(some, places))
                images += len(some)
                if images >= PIECE_IMAGES or tar.tell() >= PIECE_BYTES or time.monotonic() >= until:
                    break
            tar.write(bytes(1024))
        writer = ParquetWriter(piece.facts, SCHEMA, "lz4")
        writer.write(pa.Table.from_batches(known).sort_by("row"))
        writer.close()

    def _facts(self, some: Sequence[_Arrived], places: Sequence[int | None]) -> pa.RecordBatch:
        """Return SCHEMA of what arrived: several rows where several wanted the same url."""
        images = pa.RecordBatch.from_arrays([image_array([one.body for one in some])], names=["image"])
        facts = self.header(images)
        columns = {
            "fetched": pa.array([one.error or "ok" for one in some]),
            "offset": pa.array(places, pa.int64()),
            **{name: facts[name] for name in HEADER},
            "content_key": content_keys(facts["sha256"]),
        }
        owners = pa.array([owner for owner, one in enumerate(some) for _ in one.rows])
        rows = pa.array([row for one in some for row in one.rows], pa.int64())
        return pa.RecordBatch.from_arrays([rows, *(columns[name].take(owners) for name in SCHEMA.names[1:])], schema=SCHEMA)


def _some(arriving: Iterator[_Arrived]) -> list[_Arrived]:
    """Take what arrives next: as much as a batch of records holds."""
    found: list[_Arrived] = []
    size = 0
    for one in islice(arriving, IMAGE_ROWS):
        found.append(one)
        size += len(one.body or b"")
        if size >= BATCH_BYTES:
            break
    return found


def _add(tar: Any, one: _Arrived) -> int | None:
    """Write an image; return where its bytes stand."""
    if one.body is None:
        return None
    tar.write(member_header(f"{one.rows[0]:012d}", len(one.body)))
    place: int = tar.tell()
    tar.write(one.body)
    tar.write(bytes(-len(one.body) % 512))
    return place
