"""Whether the further fields that a recipe keeps or reads are in the input: its first records say so before a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError, near
from curate.core.shards import Shards
from curate.planning.plan import Plan
from curate.sources.fields import MOST
from curate.sources.opening import open_shard
from curate.storage.paths import is_local

RECORDS = 1000
"""Records of a shard that are looked at."""

_SHARDS = 4


def check_fields(plan: Plan, shards: Shards) -> None:
    """Raise InputError for a field that `output.keep` or a filter names and no record has that is looked at.

    Of an input that is not on this machine's disk, or that cannot be read, nothing is said: its records have nulls.
    """
    wanted = list(_wanted(plan))
    if not (wanted and len(shards)):
        return
    known: dict[str, None] = {}
    for place in sorted({len(shards) * number // _SHARDS for number in range(_SHARDS)}):
        found = _fields(shards[place])
        if found is None:
            return
        known |= found
    for owner, name in wanted:
        if name not in known:
            there = f"there are {', '.join(list(known)[:MOST])}" if known else "its records have no further fields"
            raise InputError(f"{owner}: no field {name!r} in the first records of the input; {there}{near(name, known)}")


def _wanted(plan: Plan) -> Iterator[tuple[str, str]]:
    yield from (("output.keep", name) for name in plan.recipe.output.keep or ())
    for step in plan.steps:
        yield from ((step.name, name) for name in step.rule.input_fields())


def _fields(shard: Shard) -> dict[str, None] | None:
    """Return the names of the fields of a shard's first records; None where it cannot be read here."""
    if not is_local(shard.url):
        return None
    found: dict[str, None] = {}
    try:
        with open_shard(replace(shard, limit=RECORDS)) as opened:
            for batch in opened.read():
                for told in batch["input"].drop_null().to_pylist():
                    found |= dict.fromkeys(json.loads(told))
            columns = getattr(opened, "fields", None)  # of a table all are known, also where the first rows are null
            return found | dict.fromkeys(columns() if columns is not None else ())
    except (ShardBreak, OSError):
        return None
