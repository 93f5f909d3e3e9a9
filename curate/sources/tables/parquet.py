"""Parquet: row groups as parts, images by row group."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from curate.core.contracts import IMAGE_ROWS, ROW_GROUP, Shard
from curate.sources.kept import scalar_columns
from curate.sources.records import BATCH_BYTES
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.columns import is_string
from curate.sources.tables.nested import is_several, names_of, picked, type_of
from curate.sources.tables.reader import TableRows
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry, is_local
from curate.storage.ranges import RangeFile

SHARD_ROWS = 250_000
SHARD_BYTES = 2 << 30
BUFFER = 32 << 20  # bytes of a column of images that are requested at once from a remote file

Parts = list[tuple[int, int] | None]
"""Pieces of a file by row group; [None] = it stays whole."""


@dataclass
class Parquet:
    """A parquet file, or consecutive row groups of it."""

    source: str | RangeFile
    part: tuple[int, int] | None = None
    buffer: int = 1 << 20  # bytes of a column that are read at once

    def __post_init__(self) -> None:
        import pyarrow.parquet as pq

        # a page at a time: a row group of images may be larger than memory
        self.file = pq.ParquetFile(self.source, pre_buffer=False, buffer_size=self.buffer)
        about = self.file.metadata
        self._groups = range(*(self.part or (0, about.num_row_groups)))
        self._ends = list(accumulate(about.row_group(group).num_rows for group in self._groups))

    def names(self) -> list[str]:
        """Return the names of the columns and of the fields of structs."""
        return names_of(self.file.schema_arrow)

    def scalars(self) -> list[str]:
        """Return the names of the columns that hold one short value a row."""
        return scalar_columns(self.file.schema_arrow)

    def guessed(self) -> dict[str, str]:
        """Return nothing: the columns have names."""
        return {}

    def bad(self) -> int:
        """Return 0: parquet has no bad rows."""
        return 0

    def several(self, name: str) -> bool:
        """Return whether the rows of a column hold lists of images."""
        return is_several(type_of(self.file.schema_arrow, name))

    def skips(self, at: int, row: int) -> bool:
        """Return whether a row is in a later row group than row `at`."""
        return bisect_right(self._ends, at) < bisect_right(self._ends, row)

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield rows of about BATCH_BYTES, estimated from the metadata, from the row group of row `first` on."""
        at = 0
        for group, end in zip(self._groups, self._ends, strict=True):
            if first < end:
                size = self._batch_rows(group)
                for batch in self.file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                    yield at, picked(batch, columns)
                    at += batch.num_rows
            at = end

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column, only one where they are no strings: it may be an image."""
        kind = type_of(self.file.schema_arrow, name)
        if kind is None or is_string(kind) or pa.types.is_dictionary(kind):
            found = next(self.pieces([name], 0), None)
            return None if found is None else found[1].column(0)
        one = next(self.file.iter_batches(1, row_groups=list(self._groups), columns=[name], use_threads=False), None)
        return None if one is None else picked(one, [name]).column(0)

    def _batch_rows(self, group: int) -> int:
        # only the row group's own size is used: pyarrow 26 aborts the process on damaged metadata of a column
        about = self.file.metadata.row_group(group)
        fits = BATCH_BYTES // max(about.total_byte_size // max(about.num_rows, 1), 1)
        # a dictionary hides how large its repeated values are once decoded
        return int(min(ROW_GROUP, max(fits, 1 if fits < IMAGE_ROWS else IMAGE_ROWS)))

    def parts(self) -> Parts:
        """Split the file into runs of row groups of about SHARD_ROWS rows or SHARD_BYTES."""
        about = self.file.metadata
        parts: Parts = []
        first, rows, size = 0, 0, 0
        for group in range(about.num_row_groups):
            rows += about.row_group(group).num_rows
            size += about.row_group(group).total_byte_size
            if rows >= SHARD_ROWS or size >= SHARD_BYTES or group == about.num_row_groups - 1:
                parts.append((first, group + 1))
                first, rows, size = group + 1, 0, 0
        return parts if len(parts) > 1 else [None]


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    from curate.sources.tables.inspect import inspect, without_images

    with InputFile(entry.url, entry.size) as file:
        used, reader = inspect(entry.url, lambda: Parquet(file.source()), columns)
        # a remote file stays whole: the scan would download all of it for each part
        parts = reader.parts() if reader is not None and is_local(entry.url) else [None]
    return [shard_of(entry, SOURCE.kind, part, used, on_the_web=without_images(used)) for part in parts]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.tables.table import TableShard

    with InputFile(shard.url) as file:
        yield TableShard(shard, lambda: Parquet(file.path(), shard.part), lambda: Parquet(file.source(), shard.part, BUFFER))


_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # which img2dataset describes

SOURCE = Source("parquet", (".parquet", ".pq", ".parq"), _open, _list, yields_to=_TARS, table=True)
"""Parquet with image bytes, paths or URLs; img2dataset writes one with metadata beside each tar."""
