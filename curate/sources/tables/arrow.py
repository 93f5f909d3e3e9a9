"""Arrow IPC, files and streams: what `save_to_disk` of HF datasets writes, and Feather. Mapped into memory, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curate.core.contracts import IMAGE_ROWS, ROW_GROUP, Shard
from curate.sources.kept import scalar_columns
from curate.sources.records import BATCH_BYTES
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.columns import is_binary, is_string
from curate.sources.tables.nested import is_several, names_of, picked, type_of
from curate.sources.tables.reader import TableRows
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry
from curate.storage.ranges import RangeFile

_FILE = b"ARROW1"
_MARK = b"\xff\xff\xff\xff"
_END = _MARK + bytes(4)
"""How a stream ends. One that was cut off between two batches lacks it, and pyarrow does not mind."""


@dataclass
class Arrow:
    """An Arrow IPC file or stream. Raises ArrowInvalid where it is damaged."""

    source: str | RangeFile

    def __post_init__(self) -> None:
        with self._opened() as file:
            self.is_file = file.read(len(_FILE)) == _FILE
        with self._opened() as file:
            self.schema = (pa.ipc.open_file(file) if self.is_file else pa.ipc.open_stream(file)).schema

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if not isinstance(self.source, str):
            self.source.seek(0)
            yield pa.PythonFile(self.source, "r")  # stays open: it is read again
            return
        if not os.path.getsize(self.source):  # which cannot be mapped
            raise pa.ArrowInvalid("the file is empty")
        with pa.memory_map(self.source) as file:
            yield file

    def names(self) -> list[str]:
        """Return the names of the columns and of the fields of structs."""
        return names_of(self.schema)

    def scalars(self) -> list[str]:
        """Return the names of the columns that hold one short value a row."""
        return scalar_columns(self.schema)

    def guessed(self) -> dict[str, str]:
        """Return nothing: the columns have names."""
        return {}

    def bad(self) -> int:
        """Return 0: Arrow has no bad rows."""
        return 0

    def several(self, name: str) -> bool:
        """Return whether the rows of a column hold lists of images."""
        return is_several(type_of(self.schema, name))

    def skips(self, at: int, row: int) -> bool:
        """Return False: batches that are passed over are only mapped."""
        return False

    def sample(self, name: str) -> pa.Array | None:
        """Return the first values of a column, only one where they are no strings: it may be an image."""
        found = next(self.pieces([name], 0), None)
        if found is None:
            return None
        column = found[1].column(0)
        return column if is_string(column.type) or pa.types.is_dictionary(column.type) else column[:1]

    def pieces(self, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield rows of about BATCH_BYTES, from those with row `first` on."""
        at = 0
        for batch in self._batches(columns):
            step = _rows_of(batch)
            for begin in range(0, batch.num_rows, step):
                part = batch.slice(begin, step)
                if at + part.num_rows > first:
                    yield at, part
                at += part.num_rows

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        tops = {name.split(".")[0] for name in columns} | set(columns)
        used = [place for place, name in enumerate(self.schema.names) if name in tops or name.split(".")[0] in tops]
        options = pa.ipc.IpcReadOptions(included_fields=used, use_threads=False)
        with self._opened() as file:
            if self.is_file:
                reader = pa.ipc.open_file(file, options=options)
                batches: Iterable[Any] = map(reader.get_batch, range(reader.num_record_batches))
            else:
                batches = pa.ipc.open_stream(file, options=options)
            for batch in batches:
                for column in batch.columns:
                    column.view(_bytes_like(column.type)).validate(full=True)  # offsets that point elsewhere end the process
                yield picked(batch, columns)
            if not self.is_file and not self._has_end():
                raise pa.ArrowInvalid("the stream ends without its end mark: it was cut off")

    def _has_end(self) -> bool:
        with self._opened() as file:
            if file.read(len(_MARK)) != _MARK:  # of an old version, which did not mark all batches
                return True
            file.seek(max(file.size() - len(_END), 0))
            return bool(file.read(len(_END)) == _END)


def _bytes_like(kind: pa.DataType) -> pa.DataType:
    """Return a type with bytes for its strings: those that are not UTF-8 are repaired later, record by record."""
    if is_string(kind):
        return {pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}.get(kind, pa.binary())
    if pa.types.is_struct(kind):
        return pa.struct([_field_like(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_field_like(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_field_like(kind.value_field))
    return kind


def _field_like(field: pa.Field) -> pa.Field:
    return field.with_type(_bytes_like(field.type))


def _rows_of(batch: pa.RecordBatch) -> int:
    """Return how many rows of a batch are about BATCH_BYTES."""
    fits = BATCH_BYTES // max(batch.nbytes // max(batch.num_rows, 1), 1)
    repeated = any(pa.types.is_dictionary(field.type) and is_binary(field.type.value_type) for field in batch.schema)
    return int(max(min(IMAGE_ROWS if repeated else ROW_GROUP, fits), 1))


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    from curate.sources.tables.inspect import inspect, without_images

    with InputFile(entry.url, entry.size) as file:
        used, _ = inspect(entry.url, lambda: Arrow(file.source()), columns)
    return [shard_of(entry, SOURCE.kind, None, used, on_the_web=without_images(used))]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.tables.table import TableShard

    with InputFile(shard.url) as file:
        yield TableShard(shard, lambda: Arrow(file.path()))


SOURCE = Source("arrow", (".arrow", ".feather", ".ipc"), _open, _list, table=True)
"""Arrow IPC files and streams; those of a folder that HF datasets saved, too."""
