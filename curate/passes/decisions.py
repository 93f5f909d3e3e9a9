"""Decisions: one row per (record, text) with every evidence, every filter that fails, and the first of them."""

from __future__ import annotations

import pyarrow as pa

from curate.planning.plan import Plan

RECORD_FIELDS = [
    pa.field("shard", pa.string()),  # the input shard's name
    pa.field("shard_index", pa.int32()),
    pa.field("row", pa.int64()),  # position in the shard
    pa.field("sample_key", pa.string()),  # the record's key in the output tars; null when none of its texts is kept
    pa.field("key", pa.string()),  # the record's own key
    pa.field("url", pa.string()),
    pa.field("text_no", pa.int16()),  # from 0: the web texts, then the captions
    pa.field("source", pa.string()),  # web or synthetic
    pa.field("text", pa.string()),
    pa.field("dropped_by", pa.string()),  # first failing filter in recipe order; null = kept
    pa.field("failed", pa.list_(pa.string())),  # every failing filter, of those evaluated
    pa.field("not_evaluated", pa.list_(pa.string())),  # filters whose facts were not computed: the record was dead by then
    pa.field("error", pa.string()),  # what is wrong with the record itself, or with the caption
]


def schema(plan: Plan) -> pa.Schema:
    """Return the schema of a plan's decisions: the record, the facts that are shown, a column of evidence per filter."""
    shown = [pa.field(fact.name, fact.type) for fact in plan.shown]
    evidence = [pa.field(step.name, step.rule.evidence) for step in plan.steps]
    return pa.schema([*RECORD_FIELDS, *shown, *evidence])


def sample_key(prefix: str, shard: int, row: int) -> str:
    """Return a record's key in the output tars: safe, unique, and in the order of the input.

    >>> sample_key("5f3a9c21", 12, 345)
    '5f3a9c21000001200000345'
    """
    return f"{prefix}{shard:07d}{row:08d}"


def name_lists(columns: dict[str, pa.Array]) -> pa.Array:
    """Return, for each row, the names of the columns (bool, in order) that are true there, as a list<string> array."""
    import numpy as np

    names = list(columns)
    table = np.stack([column.to_numpy(zero_copy_only=False) for column in columns.values()], axis=1)
    offsets = np.concatenate([[0], np.cumsum(table.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(names, pa.string()).take(pa.array(np.nonzero(table)[1])))
