"""What a run ends with when all is not well: the records that could not be read, and whether the run counts as a success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.core.verdicts import UNREADABLE
from curate.report.attrition import percent

MAX_BAD = 0.05
"""Share of records that may be unreadable (curate.core.verdicts.UNREADABLE) in a run that counts as a success."""

_NAMED = 3  # reasons in a line


@dataclass(frozen=True)
class Problem:
    """An error of records or a cause of failed fetches: `kind` says which, `meaning` is a sentence (empty for unknown codes)."""

    kind: str  # record, fetch
    code: str
    records: int
    share: str
    meaning: str


def listed(manifest: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the records of an output, by its manifest: errors first, the most frequent first."""
    from curate.fetch.errors import ERRORS as CAUSES
    from curate.sources.records import ERRORS

    found, records = manifest.get("problems") or {}, int(manifest.get("records") or 0)
    kinds = (("record", found.get("errors"), ERRORS), ("fetch", found.get("fetch_failures"), CAUSES))
    return [
        Problem(kind, code, rows, percent(rows, records), meanings.get(code, _status(code)))
        for kind, counted, meanings in kinds
        for code, rows in (counted or {}).items()
    ]


def faults(manifest: Mapping[str, Any], max_bad: float = MAX_BAD) -> list[str]:
    """Return why a finished run is no success, a line each; empty if it is one.

    It is none when a shard failed or was cut short, when more than the share `max_bad` of the records cannot be read, or when
    nothing is kept. The same manifest gives the same answer, however often the run is repeated.
    """
    records, kept = int(manifest.get("records") or 0), int(manifest.get("kept") or 0)
    found = manifest.get("problems") or {}
    lines = [_shards(manifest, "failed_shards", "failed"), _shards(manifest, "partial_shards", "cut short")]
    if not records:
        lines.append("nothing is kept: the input holds no records")
    else:
        bad = int(found.get("unreadable") or 0)
        unreadable = {code: rows for code, rows in (found.get("errors") or {}).items() if code in UNREADABLE}
        if bad > max_bad * records:
            what = f"{bad:,} of {records:,} records ({percent(bad, records)}) cannot be read, more than --max-bad-records"
            lines.append(f"{what} {max_bad:.4g}: {_most(unreadable)}")
        if not kept:
            lines.append(f"nothing is kept: 0 of {records:,} records{_why(manifest)}")
    return [line for line in lines if line]


def _shards(manifest: Mapping[str, Any], name: str, what: str) -> str:
    number = len(manifest.get(name) or ())
    return f"{number:,} shard{'s' if number > 1 else ''} {what}" if number else ""


def _why(manifest: Mapping[str, Any]) -> str:
    """Return what dropped most of the records, and the errors behind that."""
    found = manifest.get("problems") or {}
    dropped = {row["filter"]: row["dropped"] for row in manifest.get("attrition") or () if row["dropped"]}
    parts = [
        ("dropped by", dropped),
        ("record errors", found.get("errors") or {}),
        ("not fetched", found.get("fetch_failures") or {}),
    ]
    told = "; ".join(f"{what}: {_most(counted)}" for what, counted in parts if counted)
    return f" ({told})" if told else ""


def _most(counted: Mapping[str, int]) -> str:
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(f"{name} {rows:,}" for name, rows in ordered[:_NAMED]) + more


def _status(code: str) -> str:
    return f"the site answered with status {code[5:]}" if code.startswith("http_") else ""
