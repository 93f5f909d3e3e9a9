"""The scan of a shard: every record read once, the facts that cost next to nothing, and its part of the corpus counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.core import facts, watchdog
from curate.core.contracts import ROW_GROUP, Batch, CorpusCount, Report, Shard, ShardBreak
from curate.core.timing import Activities
from curate.counts.partial import Partial, partial_name
from curate.passes import removed
from curate.passes.texts import by_text, more_keys
from curate.sources.opening import open_shard
from curate.stages.header import HeaderStage
from curate.stages.text import TextStage, hash_strings, normalised, tokens
from curate.storage.marks import Note
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store

BASE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        *facts.schema(("key", "url", "text", "error")),
        pa.field("offset", pa.int64()),
        pa.field("given_sha256", pa.string()),
        pa.field("earlier_texts", pa.string()),  # of a sample that an earlier run packed: JSON, see curate.sources.own
        *facts.schema_of((*HeaderStage.facts, *TextStage.facts)),
        pa.field("text_key", pa.uint64()),  # xxh3 of the normal form; null without text
        pa.field("url_key", pa.uint64()),  # xxh3 of the url; null without
        pa.field("content_key", pa.uint64()),  # first 64 bits of sha256; null without image
        pa.field(
            "more_texts", pa.list_(pa.string())
        ),  # the web texts after the first (see curate.passes.texts); null where there is one
        pa.field("more_keys", pa.list_(pa.uint64())),  # their text keys
        *facts.schema(("input",)),
    ]
)


@dataclass(frozen=True)
class Scan:
    """The task: commits a shard's base facts and partial counts, whichever are missing."""

    store: Store
    base: str
    header: HeaderStage
    text: TextStage
    counts: tuple[CorpusCount, ...]
    removed: str = ""  # digest of what was taken out of OUT

    def provides(self) -> list[str]:
        """Return the providers whose facts it commits."""
        return [self.base, *dict.fromkeys(map(partial_name, self.counts))]

    def _missing(self, shard: Shard) -> dict[str, CorpusCount]:
        found = {partial_name(count): count for count in self.counts}
        return {name: count for name, count in found.items() if self.store.facts(name, shard.fingerprint) is None}

    def __call__(self, shard: Shard) -> Report:
        """Scan one shard. If the shard breaks off, the records before the break are kept and the report says so."""
        activities = Activities()
        rows, problem = 0, None
        name = self.store.facts(self.base, shard.fingerprint)
        note, gone = Note(), removed.load(self.store, self.removed)
        with ExitStack() as commits, watchdog.watching():
            partials = []
            stored = None if name is None else commits.enter_context(self.store.storage.reading(name))
            for kind, count in self._missing(shard).items():
                path = commits.enter_context(self.store.writing_facts(kind, shard.fingerprint, replace=False))
                partials.append(Partial(count, path))
            writer = None
            if stored is None:
                path = commits.enter_context(self.store.writing_facts(self.base, shard.fingerprint, note, replace=False))
                writer = ParquetWriter(path, BASE_SCHEMA, "lz4")
            batches = self._fresh(shard, activities) if stored is None else self._stored(stored, activities)
            try:
                for batch, normal in batches:
                    rows += batch.num_rows
                    with activities.doing("count", batch.num_rows):
                        texts = by_text(batch, self.text)
                        words = tokens(normal if texts.num_rows == batch.num_rows else normalised(texts["text"]))
                        for partial in partials:
                            partial.add(texts, words)
                    if writer is not None:
                        with activities.doing("write"):
                            kept = removed.without_texts(batch, gone.of_base(batch))
                            writer.write(pa.Table.from_batches([kept]))
            except ShardBreak as stop:
                problem = str(stop)
            with activities.doing("write"):
                for partial in partials:
                    partial.close()
                if writer is not None:
                    writer.close()
            note.counts["rows"], note.error = rows, problem
        return Report(shard.index, rows, activities.seconds, activities.rows, problem)

    def _fresh(self, shard: Shard, activities: Activities) -> Iterator[tuple[Batch, pa.Array]]:
        with open_shard(shard) as opened:
            records = opened.read()
            while True:
                with activities.doing("read"):
                    batch = next(records, None)
                if batch is None:
                    return
                with activities.doing("header", batch.num_rows):
                    batch = image_facts(shard, self.header, batch)
                with activities.doing("text", batch.num_rows):
                    normal = normalised(batch["text"])
                    yield_batch = base_facts(batch, normal, self.text)
                yield yield_batch, normal

    def _stored(self, path: Path, activities: Activities) -> Iterator[tuple[Batch, pa.Array]]:
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
            with activities.doing("text", batch.num_rows):
                normal = normalised(batch["text"])
            yield batch, normal


def image_facts(shard: Shard, header: HeaderStage, batch: Batch) -> Batch:
    """Return records with their header facts; null for records that hold URLs."""
    if not shard.on_the_web:
        return header(batch)
    nulls = [pa.nulls(batch.num_rows, field.type) for field in header.provides]
    return pa.RecordBatch.from_arrays([*batch.columns, *nulls], schema=pa.schema([*batch.schema, *header.provides]))


def base_facts(batch: Batch, normal: pa.Array, text: TextStage) -> Batch:
    """Return the base facts of a batch that has its header facts; `normal` is the texts' normal form."""
    columns = {name: batch[name] for name in batch.schema.names if name != "image"}
    columns.update(text.of(normal))
    columns["text_key"] = _keys(normal)
    columns["url_key"] = _keys(batch["url"])
    columns["content_key"] = content_keys(batch["sha256"])
    columns["more_keys"] = more_keys(batch["more_texts"])
    return pa.RecordBatch.from_arrays([columns[name] for name in BASE_SCHEMA.names], schema=BASE_SCHEMA)


def content_keys(digests: pa.Array) -> pa.Array:
    """Return the first 64 bits of each sha256 (hex), null for null."""
    if digests.null_count == len(digests):  # a table of texts
        return pa.nulls(len(digests), pa.uint64())
    return pa.array([None if value is None else int(value[:16], 16) for value in digests.to_pylist()], pa.uint64())


def _keys(values: pa.Array) -> pa.Array:
    missing: np.ndarray[tuple[int], np.dtype[np.bool_]] = values.is_null().to_numpy(zero_copy_only=False)
    return pa.array(hash_strings(values), pa.uint64(), mask=missing)
