"""What a finished output says of itself: its manifest, and the list of shards that it is made of."""

from __future__ import annotations

import json
from typing import Any

from curate.core.errors import OutputError
from curate.storage.backend import Storage

IDENTITY = "output.json"
"""Names recipe and input of an output."""

MERGE = "merge.json"
"""Names what an output is merged of; no other has it."""

LISTS = "input"
"""Folder of the list of shards."""


def read_manifest(out: Storage) -> dict[str, Any]:
    """Return the manifest of an output. Raises OutputError when there is none or it is damaged, OSError."""
    name = out.url("manifest.json")
    data = out.read("manifest.json")
    try:
        manifest = None if data is None else json.loads(data)
    except ValueError as error:
        raise OutputError(f"cannot read {name}: {error}") from error
    if data is None:
        finish = f"run `curate run ... --out {out.root}` to its end first"
        raise OutputError(f"{out.root} holds no finished run (no manifest.json); {finish}")
    if not isinstance(manifest, dict):
        raise OutputError(f"{name} is not a manifest")
    return manifest


def list_name(digest: str) -> str:
    """Return the name of the list of shards (curate.core.shards.LIST_SCHEMA) of an input with this digest."""
    return f"{LISTS}/{digest}.parquet"


def shard_list(out: Storage) -> str | None:
    """Return the name of the list of the shards that an output is made of, None where it has none. Raises OSError."""
    data = out.read(IDENTITY)
    try:
        name = list_name(str(json.loads(data or b"")["input"]))
    except (ValueError, TypeError, KeyError):  # of an earlier version
        return None
    return name if out.size(name) is not None else None
