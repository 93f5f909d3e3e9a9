"""Finds records by key, key in the tars, URL or sha256."""

from __future__ import annotations

from typing import Any

from curate.report.query import opened, parquet_files
from curate.storage.backend import Storage

_NAMES = ("key", "sample_key", "url", "sha256")


def find(out: Storage, key: str) -> list[dict[str, Any]]:
    """Return the decisions of the records with this key, key in the tars, URL or sha256. Raises OutputError, OSError."""
    files = parquet_files(out, "decisions")
    if not files:
        return []
    with opened(files, {}) as view:
        found = view.rows(f"SELECT * FROM data WHERE $1 IN ({', '.join(_NAMES)})", [key])
        records = [dict(zip(view.types, row, strict=True)) for row in found]
    return sorted(records, key=lambda record: (record["shard_index"], record["row"], record["text_no"]))
