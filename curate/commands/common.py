"""What several commands share: inputs, sizes, tables, where caches live."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.errors import CurateError, InputError, OutputError
from curate.shards import Shards

ROLES = ("image", "text", "url", "key")


def column_roles(pairs: Sequence[str]) -> dict[str, str]:
    """Read ROLE=NAME options. Raises InputError."""
    roles = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not equals or role not in ROLES or not name:
            raise InputError(f"--column {pair}: must be ROLE=NAME with a role of {', '.join(ROLES)}")
        roles[role] = name
    return roles


def shards_of(inputs: Sequence[str], columns: Sequence[str]) -> Shards:
    """List the shards of INPUT... in order."""
    from curate.sources import list_shards

    return list_shards(inputs, column_roles(columns))


def cache() -> Path:
    """Return where signatures of evaluation sets are kept: $CURATE_CACHE, or ~/.cache/curate."""
    return Path(os.environ.get("CURATE_CACHE") or Path.home() / ".cache" / "curate")


def size(text: str) -> int:
    """Read a size like 500MB or 2GB as bytes. Raises CurateError.

    >>> size("2GB")
    2000000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise CurateError(f"{text!r} is not a size; write 500MB or 2GB")
    return int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2].upper()])


def workers(wanted: int | None) -> int:
    """Return the number of worker processes: as wanted, or one for each core that this process may use."""
    return wanted or len(os.sched_getaffinity(0))


def print_json(value: Any) -> None:
    """Print one JSON document."""
    import click

    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def manifest_of(out: Path) -> dict[str, Any]:
    """Return OUT's manifest. Raises OutputError when there is none."""
    from curate.store import read_json

    manifest: dict[str, Any] | None = read_json(out / "manifest.json")
    if manifest is None:
        raise OutputError(f"{out} holds no finished run (no manifest.json); run `curate run ... --out {out}` to its end first")
    return manifest
