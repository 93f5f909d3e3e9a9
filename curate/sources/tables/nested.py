"""Fields inside of structs as columns (`meta.caption`), and rows of several images as several rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import ROW_GROUP
from curate.sources.tables.columns import is_list
from curate.sources.tables.reader import TableRows

DEEP = 3
"""Structs in structs whose fields can be named."""

ITEM = "\0item"
"""A column of exploded rows (string): the number of the image in its row, null where the row has only one."""


def names_of(schema: pa.Schema) -> list[str]:
    """Return the names of columns, and after them those of the fields of structs, with dots; a column's own name comes first."""
    names = list(schema.names)
    inside = (name for field in schema for name in _inside(field, DEEP))
    return list(dict.fromkeys([*names, *inside]))


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column or of a field in a struct; None where there is none of this name."""
    path = _path(schema, name)
    fields: Iterable[pa.Field] = schema
    kind = None
    for step in path:
        kind = next(field.type for field in fields if field.name == step)
        fields = _fields(kind)
    return kind


def picked(rows: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return the columns `names` alone (as of `names_of`), in this order, without views."""
    found = []
    for name in names:
        first, *inner = _path(rows.schema, name)
        column = rows.column(rows.schema.names.index(first))
        found.append(_without_views(pc.struct_field(column, inner) if inner else column))
    return pa.RecordBatch.from_arrays(found, list(names))


def is_several(kind: pa.DataType | None) -> bool:
    """Return whether a column of this type has several images a row: a list of anything but numbers, which are bytes."""
    return kind is not None and is_list(kind) and not pa.types.is_integer(kind.value_type)


def exploded(pieces: Iterable[TableRows], name: str) -> Iterator[TableRows]:
    """Yield a row for each item of the lists in column `name`, one for a list without any, with the column ITEM.

    `pieces` are all rows from the first on: the numbers of the rows are counted anew.
    """
    at = 0
    for _, rows in pieces:
        column = rows.column(rows.schema.names.index(name))
        counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        times = np.maximum(counts, 1)
        row = np.repeat(np.arange(len(counts)), times)
        number = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
        items = _without_views(column.flatten())
        if (empty := np.repeat(counts == 0, times)).any():
            items = items.take(pa.array(np.cumsum(~empty) - 1, mask=empty))
        taken = rows.take(pa.array(row))
        arrays = [items if field.name == name else taken.column(i) for i, field in enumerate(rows.schema)]
        said = pa.array(number.astype(str), mask=np.repeat(counts < 2, times))
        whole = pa.RecordBatch.from_arrays([*arrays, said.cast(pa.string())], [*rows.schema.names, ITEM])
        for begin in range(0, len(row), ROW_GROUP):
            part = whole.slice(begin, ROW_GROUP)
            yield at, part
            at += part.num_rows


def _without_views(column: pa.Array) -> pa.Array:
    """Return a column of views as one of the large type: Arrow takes no rows of views, and does not cut them (pyarrow 26)."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _inside(field: pa.Field, deep: int) -> Iterator[str]:
    for inner in _fields(field.type) if deep else ():
        yield f"{field.name}.{inner.name}"
        yield from (f"{field.name}.{name}" for name in _inside(inner, deep - 1))


def _path(fields: Iterable[pa.Field], name: str) -> list[str]:
    """Return the names that lead to a field, [] where there is none; a name with dots that is a field's own comes first."""
    known = list(fields)
    if any(field.name == name for field in known):
        return [name]
    for field in known:
        rest = name.removeprefix(field.name + ".")
        if rest != name and (found := _path(_fields(field.type), rest)):
            return [field.name, *found]
    return []
