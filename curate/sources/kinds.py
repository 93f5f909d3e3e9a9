"""Which kind of input a name says that it is."""

from __future__ import annotations

import posixpath

KINDS = {
    ".tar": "tar",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".parq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def _kind(url: str) -> str | None:
    return "archive" if url.lower().endswith(ARCHIVES) else KINDS.get(posixpath.splitext(url)[1].lower())


ARCHIVES = tuple(name + packed for name in (".warc", ".arc", ".wat") for packed in ("", ".gz", ".zst", ".lz4"))
"""How the names of web archives end."""
