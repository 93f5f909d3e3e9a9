"""Which columns of a table are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from curate.core.errors import InputError
from curate.sources.lines import SAMPLE_LINES
from curate.sources.tables.cells import can_hold_images
from curate.sources.tables.columns import clean_text, is_list, is_string, on_the_web, resolve, without_images
from curate.sources.tables.reader import DAMAGE, Reader, is_damage

R = TypeVar("R", bound=Reader)


def inspect(url: str, opening: Callable[[], R], wanted: Mapping[str, str]) -> tuple[dict[str, str], R | None]:
    """Return the columns of a table by role, and its reader; no reader for a damaged table, which the run will report.

    Raises InputError when the columns cannot be used.
    """
    try:
        reader = opening()
        columns = resolve(url, reader.names(), wanted, reader.guessed())
        name = columns.get("image")
        sample = None if name is None else reader.sample(name)
        texts = reader.sample(columns["text"])
    except DAMAGE as error:
        if not is_damage(error):
            raise InputError(f"{url}: {getattr(error, 'strerror', None) or error}") from None
        return dict(wanted), None
    if texts is not None:
        _check_texts(url, columns["text"], texts.type)
    if name is not None and sample is not None:
        columns = on_the_web(columns, {name: _sample(url, name, sample)})
    return columns, reader


def _check_texts(url: str, name: str, kind: pa.DataType) -> None:
    """Raise InputError for a column of objects, or of lists of anything but texts."""
    inside = kind
    while is_list(inside):
        inside = inside.value_type
    if pa.types.is_struct(inside) or pa.types.is_map(inside) or (inside is not kind and pa.types.is_nested(inside)):
        other = f"choose another with --column text=NAME{_or_field(name, kind)}"
        raise InputError(f"{url}: column {name} cannot hold texts, it is {kind}; {other}")


def _sample(url: str, name: str, column: pa.Array) -> list[Any]:
    """Return values of an image column of strings, [] for other types. Raises InputError when it cannot hold images."""
    kind = column.type
    if not can_hold_images(kind):
        other = f"choose another with --column{_or_field(name, kind)}"
        raise InputError(f"{url}: column {name} cannot hold images, it is {kind}; {other}")
    column = column.drop_null()[:SAMPLE_LINES]
    column = column.flatten() if is_list(kind) else column
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return list(clean_text(column.drop_null()[:SAMPLE_LINES])[0].to_pylist()) if is_string(column.type) else []


def _or_field(name: str, kind: pa.DataType) -> str:
    fields = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    return f", or a field of it: {', '.join(f'{name}.{field}' for field in fields)}" if fields else ""


__all__ = ["inspect", "without_images"]
