"""What is wrong with records, counted: errors by reason, fetch failures by cause, and the records that could not be read at all.

A tally has them under `error:REASON`, `unfetched:CAUSE` and `unreadable`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.verdicts import UNREADABLE

_CODE = re.compile(r"[a-z0-9_]{1,40}")
_HERE = ("ok", "here")  # of `fetch`: images that were fetched, and those that need not be


def of_errors(errors: pa.Array) -> Counter[str]:
    """Count the errors of records (codes joined by commas; null where there is none)."""
    return of_counted((item["values"], item["counts"]) for item in pc.value_counts(errors).to_pylist())


def of_counted(errors: Iterable[tuple[str | None, int]]) -> Counter[str]:
    """Count the errors of records, given as values of `error` with the number of records that have each."""
    found: Counter[str] = Counter()
    for value, records in errors:
        codes = {code for code in (value or "").split(",") if _CODE.fullmatch(code)}
        found.update({f"error:{code}": records for code in codes})
        found["unreadable"] += records if codes & UNREADABLE else 0
    return +found


def of_decisions(table: pa.Table) -> Counter[str]:
    """Count what is wrong with the records of a table of decisions."""
    web = table.filter(pc.equal(table["text_no"], 0))
    found = of_errors(web["error"].combine_chunks())
    if "fetch" in table.column_names:
        for item in pc.value_counts(web["fetch"].combine_chunks()).to_pylist():
            if item["values"] is not None and item["values"] not in _HERE:
                found[f"unfetched:{item['values']}"] += item["counts"]
                if item["values"] != "missing_url":  # decisions name the cause among the errors of the record, too
                    del found[f"error:{item['values']}"]
    return found


def described(tally: Mapping[str, int]) -> dict[str, Any]:
    """Return what a tally has of them as a manifest says it, the most frequent first."""
    return {
        "unreadable": tally.get("unreadable", 0),
        "errors": _part(tally, "error:"),
        "fetch_failures": _part(tally, "unfetched:"),
    }


def _part(tally: Mapping[str, int], prefix: str) -> dict[str, int]:
    found = {name.removeprefix(prefix): records for name, records in tally.items() if name.startswith(prefix) and records}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
