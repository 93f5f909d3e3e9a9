"""Which columns of a table are used, and how it is cut into shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curate.core.errors import InputError
from curate.sources.tables.columns import clean_text, is_binary, is_string, on_the_web, resolve
from curate.sources.tables.csv import Csv
from curate.sources.tables.jsonl import _inspect_jsonl
from curate.sources.tables.lines import SAMPLE_LINES
from curate.sources.tables.parquet import Parquet, Parts, _parts
from curate.sources.tables.reader import DAMAGE


def inspect(url: str, path: str, kind: str, wanted: Mapping[str, str]) -> tuple[dict[str, str], Parts]:
    """Return the columns of a table by role, and the parts to cut it into ([None] = it stays whole).

    Raises InputError when its columns cannot be used; a table that cannot be read is left for the run to report.
    """
    if kind == "jsonl":
        return _inspect_jsonl(url, path, wanted), [None]
    try:
        reader: Parquet | Csv = Parquet(path) if kind == "parquet" else Csv(path, tabs=path.lower().endswith(".tsv"))
        columns = resolve(url, reader.names(), wanted)
        name = columns.get("image")
        sample = None if name is None else next(reader.chunks([name], 0), None)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{url}: {error.strerror}") from None
        return dict(wanted), [None]
    if name is not None and sample is not None:
        columns = on_the_web(columns, {name: _sample(url, name, sample[1].column(0))})
    return columns, _parts(reader) if isinstance(reader, Parquet) else [None]


def _sample(url: str, name: str, column: pa.Array) -> list[Any]:
    """Return values of an image column, where they are strings. Raises InputError when it cannot hold images."""
    kind = column.type
    column = column.dictionary_decode() if pa.types.is_dictionary(kind) else column
    if is_string(column.type):
        return list(clean_text(column.drop_null()[:SAMPLE_LINES])[0].to_pylist())
    if not (is_binary(column.type) or pa.types.is_struct(kind) or pa.types.is_null(kind)):
        raise InputError(f"{url}: column {name} cannot hold images, it is {kind}; name the one that does")
    return []
