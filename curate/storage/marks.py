"""The commit mark: one JSON format for everything that a task commits.

A mark is written after the files that it names, so its presence means that they are complete. A driver reads a million marks
with two million files: these are named tuples, which take a third of a dataclass's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class File(NamedTuple):
    """A committed file."""

    bytes: int
    sha256: str | None = None  # hex; None where it is not checked
    samples: int | None = None  # that it holds or names; None where it has none

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Mark(NamedTuple):
    """What one task committed."""

    files: Mapping[str, File] = {}  # by name in OUT
    counts: Mapping[str, int] = {}
    error: str | None = None  # why records of the shard are missing
    made_with: str | None = None  # hash of the settings that the files depend on; a mark with another one is outdated
    parts: Mapping[str, Mark] = {}  # of a block: the marks of its shards' verdicts, by index

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        described = {
            "files": {name: file.to_json() for name, file in self.files.items()},
            "counts": dict(self.counts),
            "error": self.error,
            "made_with": self.made_with,
            "parts": {name: mark.to_json() for name, mark in self.parts.items()},
        }
        return {name: value for name, value in described.items() if value}

    @classmethod
    def from_json(cls, value: Any) -> Mark:
        """Return the mark that `to_json` described. Raises ValueError for anything else, such as the mark of an older version."""
        if not isinstance(value, dict) or not value.keys() <= {"files", "counts", "error", "made_with", "parts"}:
            raise ValueError(f"not a mark: {value!r:.100}")
        files = {
            name: File(file["bytes"], file.get("sha256"), file.get("samples")) for name, file in value.get("files", {}).items()
        }
        parts = {name: cls.from_json(part) for name, part in value.get("parts", {}).items()}
        return cls(files, value.get("counts", {}), value.get("error"), value.get("made_with"), parts)


@dataclass
class Note:
    """What joins the mark of facts once these are written: filled in while the file is."""

    counts: dict[str, int] = field(default_factory=dict)
    error: str | None = None
