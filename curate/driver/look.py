"""A look at an input before a run: the first records of some of its shards, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from curate.core.contracts import Shard, ShardBreak, shard_name
from curate.core.shards import Shards
from curate.passes import problems
from curate.sources.opening import open_shard
from curate.storage.paths import is_local

SHARDS, RECORDS = 8, 250
"""Shards that are looked at, evenly spread over the input, and the records of each."""

COPIED = 32 << 20
"""Bytes of the largest remote shard that is looked at: most kinds are copied to be read, and a plan should cost nothing."""


@dataclass(frozen=True)
class Look:
    """What was seen: how many shards and records, and the part of a manifest that says what is wrong with them."""

    shards: int
    records: int
    manifest: dict[str, Any]

    def sentence(self) -> str:
        """Return it in one line.

        >>> Look(2, 500, {"problems": {"unreadable": 5}}).sentence()
        'looked at 500 records of 2 shards: 5 cannot be read'
        """
        bad = self.manifest["problems"]["unreadable"] or "none"
        shards = f"{self.shards} shard{'s' if self.shards > 1 else ''}"
        return f"looked at {self.records:,} records of {shards}: {bad} cannot be read"


def look(shards: Shards) -> Look | None:
    """Read the first records of some shards that are here or small, without images that are files of their own or on the web.

    None where there are no such shards.
    """
    places = np.unique(np.linspace(0, len(shards) - 1, min(SHARDS, len(shards))).astype(np.int64))
    tally: Counter[str] = Counter()
    broken = []
    near = [shard for shard in shards.at(places) if is_local(shard.url) or shard.size <= COPIED]
    if not near:
        return None
    for shard in near:
        reason = _looked_at(replace(shard, limit=RECORDS), tally)
        if reason is not None:
            broken.append({"shard": shard_name(shard), "reason": reason})
    records = tally.pop("records", 0)
    about = {"records": records, "kept": records, "problems": problems.described(tally), "partial_shards": broken}
    return Look(len(near), records, about)


def _looked_at(shard: Shard, tally: Counter[str]) -> str | None:
    """Count the first records of a shard; return why it broke before, if it did."""
    try:
        with open_shard(shard) as opened:
            for batch in opened.read():
                tally["records"] += batch.num_rows
                tally.update(problems.of_errors(batch["error"]))
    except (ShardBreak, OSError, pa.ArrowException) as error:
        return str(error)
    return None
