"""JSON files that are whole or not there."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the name never holds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_bytes(_json(content))
    os.replace(partial, path)


def read_json(path: Path) -> Any | None:
    """Return the JSON of a file, or None when it is not there or not whole."""
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _parsed(data: bytes | None) -> Any | None:
    try:
        return None if data is None else json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
