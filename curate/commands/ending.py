"""How the commands that read an input end: what was wrong with its records, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.commands.common import print_table
from curate.commands.saying import say
from curate.report.problems import faults, listed

NO_SUCCESS = 3
"""The exit code of what was finished, but cannot pass for a success (see curate.report.problems.faults)."""


def print_problems(manifest: Mapping[str, Any]) -> None:
    """Print the errors of records and the causes of failed fetches, if there are any."""
    found = listed(manifest)
    if found:
        rows = [(f"{one.kind}: {one.code}", f"{one.records:,}", one.share, one.meaning) for one in found]
        print_table(("wrong with records", "records", "of all", "meaning"), rows)


def print_cut_short(manifest: Mapping[str, Any]) -> None:
    """Say on standard error which shards broke, and where."""
    for shard in manifest.get("partial_shards") or ():
        say(f"cut short: {shard['shard']}: {shard['reason']}", prefix="")


def ended(manifest: Mapping[str, Any], max_bad: float) -> int:
    """Say on standard error why this is no success, if so; return the exit code."""
    lines = faults(manifest, max_bad)
    for line in lines:
        say(line, "error")
    return NO_SUCCESS if lines else 0
