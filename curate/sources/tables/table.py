"""Tables: parquet (bytes, HF structs, local paths), csv and tsv. Columnar where no file must be opened.

A parquet file is cut into shards by row groups, the others where rows begin (see curate.sources.tables.cutting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import RECORD_SCHEMA, ROW_GROUP, Batch, Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources.kept import MAX_FIELDS, kept_columns, said
from curate.sources.linked_files import Folder
from curate.sources.records import BATCH_BYTES, MAX_IMAGE, UNSAFE_KEY, Record, batches, join
from curate.sources.tables.cells import bytes_of, load_cell
from curate.sources.tables.columns import LINES, Code, clean_text, clean_texts, joined, resolve
from curate.sources.tables.nested import ITEM, exploded
from curate.sources.tables.own_rows import TOLD, as_first_read, further_names
from curate.sources.tables.reader import DAMAGE, Reader, TableRows, broken, stem
from curate.storage.samples.parquet import is_ours


@dataclass
class TableShard:
    """A table as records. `opening` gives a reader of the whole table, `partly` one that is cheaper where only images are read.

    Image paths are relative to the table's folder.
    """

    shard: Shard
    opening: Callable[[], Reader]
    partly: Callable[[], Reader] | None = None

    def __post_init__(self) -> None:
        self._ahead: Iterator[TableRows] | None = None
        self._held: tuple[int, pa.RecordBatch | None] = (0, None)
        self._images: Reader | None = None
        self._further: list[str] = []  # columns that are carried
        self._ours = False  # a file of samples of an earlier run
        self.folder = Folder.of_file(self.shard.url)
        self.columns = dict(self.shard.columns)

    def _opened(self, opening: Callable[[], Reader]) -> Reader:
        """Return an open reader, with the columns known. Raises ShardBreak when nothing of the table can be read."""
        try:
            reader = opening()
            if "text" not in self.columns or not {"image", "url"} & self.columns.keys():
                self.columns = resolve(self.shard.url, reader.names(), self.columns, reader.guessed())
        except InputError as error:  # the listing could not read the table, so it did not report this
            raise ShardBreak(str(error)) from None
        except DAMAGE as error:
            raise broken(self.shard.url, error) from None
        return reader

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA. Raises ShardBreak after the last good row when the table is damaged."""
        reader, limit = self._opened(self.opening), self.shard.limit
        self._ours, self._further = self._is_ours(reader), self._further_of(reader)
        end = 0
        for start, rows in self._pieces(reader, self._read_columns(), 0):
            if limit is not None and start >= limit:
                return
            rows = rows if limit is None else rows.slice(0, limit - start)
            yield from self._records(start, rows)
            end = start + rows.num_rows
        bad = reader.bad() if limit is None else min(reader.bad(), limit - end)
        yield from batches((Record(f"{stem(self.shard)}/bad/{i}", None, None, "bad_row", None) for i in range(bad)), end)

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row, ascending), reading only the image column, and only where needed."""
        if self._images is None:
            self._images = self._opened(self.partly or self.opening)
        name = self.columns.get("image")
        for row in rows.column("row").to_pylist():
            start, held = (0, None) if name is None else self._piece_of(self._images, name, row)
            yield None if name is None or held is None else load_cell(held.column(0), row - start, name, self.folder)[0]

    def _piece_of(self, reader: Reader, name: str, row: int) -> tuple[int, pa.RecordBatch | None]:
        """Return the piece of the image column that holds `row`, and its first row. For ascending rows it is read once."""
        start, held = self._held
        end = start + (held.num_rows if held is not None else 0)
        if self._ahead is None or row < start or (row >= end and not self._several(reader) and reader.skips(end, row)):
            self._ahead, end = self._pieces(reader, [name], row), 0
        while row >= end or held is None:
            found = next(self._ahead, None)
            if found is None:
                self._ahead, self._held = None, (0, None)
                return self._held
            self._held = start, held = found
            end = start + held.num_rows
        return self._held

    def _pieces(self, reader: Reader, columns: list[str], first: int) -> Iterator[TableRows]:
        """Yield pieces; where rows hold lists of images, a row of theirs is an image, and all are counted from the first on."""
        several = self._several(reader)
        try:
            yield from reader.pieces(columns, first) if several is None else exploded(reader.pieces(columns, 0), several)
        except DAMAGE as error:
            raise broken(self.shard.url, error) from None

    def _several(self, reader: Reader) -> str | None:
        """Return the column whose rows hold lists of images, or of addresses of images; None where there is none."""
        name = self.columns.get("image") or self.columns.get("url")
        return name if name is not None and reader.several(name) else None

    def _read_columns(self) -> list[str]:
        told = [TOLD] if self._ours else []
        return sorted({*self._further, *told, *(name for role, name in self.columns.items() if role != LINES)})

    def _is_ours(self, reader: Reader) -> bool:
        return self.shard.kind == "parquet" and is_ours(reader.names())

    def _further_of(self, reader: Reader) -> list[str]:
        """Return the columns that are carried. Raises ShardBreak."""
        if self._is_ours(reader):  # what was carried before is in `json`
            return []
        used = said(self.columns)
        try:
            return [name for name in reader.scalars() if name not in used][:MAX_FIELDS]
        except DAMAGE as error:
            raise broken(self.shard.url, error) from None

    def fields(self) -> list[str]:
        """Return the names of the further columns that records carry. Raises ShardBreak when nothing of the table can be read."""
        reader = self._opened(self.opening)
        if not self._is_ours(reader):
            return self._further_of(reader)
        _, rows = next(self._pieces(reader, [TOLD], 0), (0, None))
        return [] if rows is None else further_names(rows.column(0))

    def _records(self, start: int, piece: pa.RecordBatch) -> Iterator[Batch]:
        fields, codes = self._fields(start, piece)
        name = self.columns.get("image")
        if name is None:
            fields["image"] = pa.nulls(len(piece), pa.binary())
            fields["error"] = joined([("missing_url", pc.is_null(fields["url"])), *codes], len(piece))
            yield _batch(fields)
            return
        column = piece.column(piece.schema.get_field_index(name))
        image = bytes_of(column, name)
        if image is None:
            fields["error"] = joined(codes, len(piece))
            yield from batches(self._row_by_row(fields, column), start)
            return
        missing = pc.is_null(image)
        if (pc.max(pc.binary_length(image)).as_py() or 0) > MAX_IMAGE:
            large = pc.fill_null(pc.greater(pc.binary_length(image), MAX_IMAGE), False)  # noqa: FBT003 - Arrow's signature
            image = pc.if_else(large, pa.scalar(None, image.type), image)
            codes = [("image_too_large", large), *codes]
        fields["error"] = joined([("missing_image", missing), *codes], len(image))
        for begin, length in _cuts(image, fields["text"]):
            part = {name: array.slice(begin, length) for name, array in fields.items()}
            yield _batch({**part, "image": image.slice(begin, length).cast(pa.binary())})

    def _fields(self, start: int, piece: pa.RecordBatch) -> tuple[dict[str, pa.Array], list[Code]]:
        """Return the columns of RECORD_SCHEMA but for image and error, and what is wrong with them."""
        rows = piece.num_rows
        columns = dict(zip(piece.schema.names, piece.columns, strict=True))
        have = {role: clean_text(columns[name]) for role, name in self.columns.items() if role not in ("image", "text", LINES)}
        text, more, codes = clean_texts(columns[self.columns["text"]], lines=LINES in self.columns)
        url, given = (have[role][0] if role in have else pa.nulls(rows, pa.string()) for role in ("url", "sha256"))
        codes = [("missing_text", pc.is_null(text)), *codes]
        numbers = _numbers(start, rows)
        key = pc.binary_join_element_wise(pa.scalar(stem(self.shard)), numbers.cast(pa.string()), "/")
        if "key" in have:
            own = have["key"][0]
            if (item := columns.get(ITEM)) is not None:  # an own key is that of all images of its row
                own = pc.coalesce(pc.binary_join_element_wise(own, item, "/"), own)
            key = pc.coalesce(own, key)
            codes.append(("unsafe_key", pc.match_substring_regex(key, UNSAFE_KEY)))
            codes += [("key_not_utf8", mask) for code, mask in have["key"][1] if code == "text_not_utf8"]
        further = kept_columns([(name, columns[name]) for name in self._further], rows, written=self.shard.kind == "csv")
        found = {"row": numbers, "key": key, "url": url, "text": text, "given_sha256": pc.utf8_lower(given)}
        found = {**found, "more_texts": more, "input": further}
        return (as_first_read(found, columns[TOLD], self.columns) if self._ours else found), codes

    def _row_by_row(self, fields: dict[str, pa.Array], column: pa.Array) -> Iterator[Record]:
        names = [name for name in ("key", "url", "text", "error", "more_texts", "input", "earlier_texts") if name in fields]
        for i, values in enumerate(zip(*(fields[name].to_pylist() for name in names), strict=True)):
            image, code = load_cell(column, i, self.columns["image"], self.folder)
            record = Record(**dict(zip(names, values, strict=True)), image=image)
            yield record._replace(error=join([one for one in (code, record.error) if one]))


def _batch(columns: dict[str, pa.Array]) -> Batch:
    """Return a batch of RECORD_SCHEMA; columns that are not there are null."""
    rows = len(columns["row"])
    arrays = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in RECORD_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


@cache
def _row_numbers() -> pa.Array:
    return pa.array(range(ROW_GROUP), pa.int64())


def _numbers(start: int, rows: int) -> pa.Array:
    return pc.add(_row_numbers().slice(0, rows), start) if rows <= ROW_GROUP else pa.array(range(start, start + rows))


def _cuts(image: pa.Array, text: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield (begin, length) of slices of at most ROW_GROUP rows and BATCH_BYTES."""
    if len(image) <= ROW_GROUP and image.nbytes + text.nbytes <= BATCH_BYTES:
        yield 0, len(image)
        return
    sizes = np.zeros(len(image), np.int64)
    for column in (image, text):
        if column.null_count < len(column):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(image):
        before = int(ends[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        end = min(max(end, begin + 1), begin + ROW_GROUP)
        yield begin, end - begin
        begin = end
