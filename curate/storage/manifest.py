"""The manifest of a finished output."""

from __future__ import annotations

import json
from typing import Any

from curate.core.errors import OutputError
from curate.storage.backend import Storage


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
