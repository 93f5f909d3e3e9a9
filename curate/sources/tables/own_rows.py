"""Rows of our own parquet files of samples (`output.kind: parquet`): the records that they were, told by the column `json`."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from curate.core.contracts import RECORD_SCHEMA
from curate.sources.own import Own, own
from curate.sources.records import cut
from curate.sources.tables.columns import LINES
from curate.sources.texts import together

TOLD = "json"
"""The column that tells all of a sample."""


def as_first_read(fields: dict[str, pa.Array], told: pa.Array, columns: Mapping[str, str]) -> dict[str, pa.Array]:
    """Return the columns of records, as `fields` has them, with what the first run had: key, web texts, scores, further fields.

    A row whose `told` (string, the column `json`) is not ours stays as it is, and so do key and text where `columns` (by role)
    chooses another column for them.
    """
    found = {name: fields[name].to_pylist() for name in ("key", "text", "more_texts", "input")}
    found["earlier_texts"] = [None] * len(told)
    for row, known in enumerate(map(_own, told.to_pylist())):
        if known is None:
            continue
        found["earlier_texts"][row], found["input"][row] = known.earlier_texts, known.input
        if columns.get("key") == "key":
            found["key"][row] = known.key
        if columns.get("text") == "text" and LINES not in columns:
            texts = together([cut(text, []) for text in known.web_texts(found["text"][row])], [])
            found["text"][row], found["more_texts"][row] = texts
    return {**fields, **{name: pa.array(values, RECORD_SCHEMA.field(name).type) for name, values in found.items()}}


def further_names(told: pa.Array) -> list[str]:
    """Return the names of the further fields that rows carry from the input of their first run."""
    carried = (known.input for known in map(_own, told.to_pylist()) if known is not None and known.input is not None)
    return list(dict.fromkeys(name for one in carried for name in json.loads(one)))


def _own(told: str | None) -> Own | None:
    try:
        fields = json.loads(told or "null")
    except (ValueError, RecursionError):
        return None
    return own(fields) if isinstance(fields, dict) else None
