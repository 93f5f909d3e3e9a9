"""Fetch: downloads the images of records that hold URLs, for the records that the filters before it keep.

Results are committed in pieces (see curate.fetch.image_log): a kill loses at most one piece, an end by Ctrl-C or SIGTERM none,
and the next attempt requests only what is missing. Rows of a shard with the same URL share one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from threading import Event
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import IMAGE_ROWS, Batch, Report, Shard
from curate.core.stopping import stop_noted
from curate.core.timing import Activities
from curate.fetch import FetchRequest, FetchResult, fetch
from curate.fetch.image_log import HEADER, SCHEMA, ImageLog, Piece
from curate.fetch.offline import while_online
from curate.fetch.policy import FetchPolicy
from curate.passes.evaluation import ShardEvaluation, evaluating
from curate.passes.judge import Judge
from curate.passes.scan import content_keys
from curate.planning.plan import FETCH
from curate.sources.records import BATCH_BYTES, image_array
from curate.stages.header import HeaderStage
from curate.storage.marks import Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.tar import member_header

PIECE_IMAGES = 5_000
PIECE_BYTES = 512 << 20
PIECE_SECONDS = 60.0
"""Limits of a piece: the most that a kill can lose, and that a worker keeps on its disk when OUT is remote."""

WINDOW = 100_000
"""Records requested at once, however large the shard: about 200 MB of URLs and queues."""

Download = Callable[[Sequence[FetchRequest], FetchPolicy], Generator[FetchResult | None, None, None]]


@dataclass(frozen=True)
class Fetch:
    """The task: fetches the images of a scanned shard that are needed and not known yet, and commits them."""

    judge: Judge  # evaluated up to `fetch`, it selects the records
    policy: FetchPolicy
    retry: bool = False  # request failed images again
    download: Download | None = None  # default: curate.fetch.fetch

    def __call__(self, shard: Shard) -> Report:
        """Fetch for one scanned shard."""
        activities, log, rows = Activities(), ImageLog(self.judge.store, shard), 0
        with evaluating(self.judge, shard, activities) as evaluation:
            batches = (batch.to_pylist() for batch in wanted(evaluation, retry=self.retry))
            records = chain.from_iterable(batches)
            while some := list(islice(records, WINDOW)):
                rows += len(some)
                began = time.process_time()
                self._fetch(some, log)
                fetching = time.process_time() - began  # core time: waiting costs none
                activities.seconds["fetch"] = activities.seconds.get("fetch", 0.0) + fetching
            evaluation.commit()
        known = log.table()
        failed = pc.sum(pc.not_equal(known["fetched"], "ok")).as_py() or 0
        done = Mark(counts={"requested": known.num_rows, "failed": failed})
        self.judge.store.commit(self.judge.run, f"{self.judge.fetch_marks}/{shard.index:06d}", done)
        return Report(shard.index, rows, activities.seconds, {**activities.rows, "fetch": rows})

    def _fetch(self, records: Sequence[dict[str, Any]], log: ImageLog) -> None:
        """Request the images of some records, and commit the result of each."""
        with stop_noted() as told, closing(_arriving(_Rows(records), self.download or fetch, self.policy)) as arriving:
            pieces = _Pieces(log, self.judge.plan.header, told)
            while pieces.write(arriving) and not told.is_set():
                pass


def wanted(evaluation: ShardEvaluation, *, retry: bool = False) -> Iterator[Batch]:
    """Yield row, url, given_sha256 of the living records whose images are not known; with `retry` those that failed too."""
    step = evaluation.plan.step(FETCH)
    for batch in evaluation.batches():
        evaluated = evaluation.evaluate(batch, step)
        known = evaluated.facts["fetched"]
        settled = pc.fill_null(pc.equal(known, "ok"), fill_value=False) if retry else known.is_valid()
        heads = evaluated.verdict.texts.at_heads(evaluated.verdict.images_before(step))
        living = heads & ~settled.to_numpy(zero_copy_only=False)
        yield evaluated.facts.select(["row", "url", "given_sha256"]).filter(pa.array(living))


class _Row(NamedTuple):
    """A row that needs an image, and the sha256 (hex) that the input demands, if any."""

    row: int
    sha256: str | None


class _Rows:
    """The rows that need images, by URL."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.without: list[_Row] = []  # rows without a URL
        self.of: dict[str, list[_Row]] = {}
        for record in records:
            row = _Row(record["row"], record["given_sha256"] or None)
            (self.without if record["url"] is None else self.of.setdefault(record["url"], [])).append(row)


@dataclass(frozen=True)
class _Arrived:
    """The result of a request: an image or an error, and the rows that it is for."""

    rows: list[_Row]
    error: str | None
    body: bytes | None


Arriving: TypeAlias = Generator[_Arrived | None, None, None]
"""Results as they arrive; None when none has arrived for a while."""


def _arriving(rows: _Rows, download: Download, policy: FetchPolicy) -> Arriving:
    yield from (_Arrived([row], "missing_url", None) for row in rows.without)
    of_row = {several[0].row: several for several in rows.of.values()}
    requests = [FetchRequest(several[0].row, url) for url, several in rows.of.items()]
    if requests:
        with closing(download(requests, policy)) as answers:
            for got in while_online(answers, {one.row: one.url for one in requests}, policy.offline_after):
                yield None if got is None else _Arrived(of_row.pop(got.row), got.error, got.body)
    if of_row:
        raise RuntimeError(f"{len(of_row)} urls were not answered by the downloader")


@dataclass(frozen=True)
class _Pieces:
    """Writes results into pieces."""

    log: ImageLog
    header: HeaderStage
    told: Event
    """Set when this process is asked to end: the piece at hand is the last one."""

    def write(self, arriving: Arriving) -> bool:
        """Write one piece of the next results; return False when there are no more."""
        first = next((one for one in arriving if one is not None or self.told.is_set()), None)
        if first is None:
            return False
        with self.log.writing() as piece:
            self._fill(piece, first, arriving)
        return True

    def _fill(self, piece: Piece, first: _Arrived, arriving: Arriving) -> None:
        known: list[pa.RecordBatch] = []
        images, until = 0, time.monotonic() + PIECE_SECONDS

        def due() -> bool:
            return self.told.is_set() or time.monotonic() >= until

        some = [first]
        with piece.tar.open("wb", buffering=1 << 20) as tar:
            while some:
                places = [_add(tar, one) for one in some]
                known.append(self._facts(some, places))
                images += len(some)
                if images >= PIECE_IMAGES or tar.tell() >= PIECE_BYTES or due():
                    break
                some = _some(arriving, due)
            tar.write(bytes(1024))
        writer = ParquetWriter(piece.facts, SCHEMA, "lz4")
        writer.write(pa.Table.from_batches(known).sort_by("row"))
        writer.close()

    def _facts(self, some: Sequence[_Arrived], places: Sequence[int | None]) -> pa.RecordBatch:
        """Return the facts (SCHEMA) of some results: one row for each row with that URL."""
        images = pa.RecordBatch.from_arrays([image_array([one.body for one in some])], names=["image"])
        facts = self.header(images)
        columns = {"offset": pa.array(places, pa.int64()), **{name: facts[name] for name in HEADER}}
        columns["content_key"] = content_keys(facts["sha256"])
        rows, codes, owners = [], [], []
        for owner, (one, digest) in enumerate(zip(some, facts["sha256"].to_pylist(), strict=True)):
            for row in one.rows:
                code = one.error or ("ok" if row.sha256 in (None, digest) else "sha256_mismatch")
                rows.append(row.row)
                codes.append(code)
                owners.append(owner if code == "ok" else None)  # of another image than the input says nothing is known
        rest = (columns[name].take(pa.array(owners, pa.int64())) for name in SCHEMA.names[2:])
        return pa.RecordBatch.from_arrays([pa.array(rows, pa.int64()), pa.array(codes, pa.string()), *rest], schema=SCHEMA)


def _some(arriving: Arriving, due: Callable[[], bool]) -> list[_Arrived]:
    """Take the next results: as many as a batch of records holds, or those that have arrived when the piece is due."""
    found: list[_Arrived] = []
    size = 0
    for one in arriving:
        if one is not None:
            found.append(one)
            size += len(one.body or b"")
        if len(found) >= IMAGE_ROWS or size >= BATCH_BYTES or due():
            break
    return found


def _add(tar: Any, one: _Arrived) -> int | None:
    """Write an image; return the offset of its bytes, None for a result without image."""
    if one.body is None:
        return None
    tar.write(member_header(f"{one.rows[0].row:012d}", len(one.body)))
    place: int = tar.tell()
    tar.write(one.body)
    tar.write(bytes(-len(one.body) % 512))
    return place
