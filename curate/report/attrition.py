"""Counts what each filter dropped, and where filters overlap, in one scan of the decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from curate.report.query import View, opened, parquet_files
from curate.report.rules import Rule
from curate.report.tables import WIDTH, Column, number, table
from curate.storage.backend import Storage

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "shard_index": "INTEGER",
    "row": "BIGINT",
    "sample_key": "VARCHAR",
    "text_no": "SMALLINT",
    "source": "VARCHAR",
    "text": "VARCHAR",
    "dropped_by": "VARCHAR",
    "failed": "VARCHAR[]",
    "not_evaluated": "VARCHAR[]",
    "format": "VARCHAR",
    "language": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
}
"""Columns of decisions that queries read, with SQL types."""

BAR = 20  # characters

T = TypeVar("T")


@dataclass(frozen=True)
class Attrition:
    """One filter in recipe order. All counts are of decisions, that is of (record, text) rows.

    `seen` reached this filter, `dropped` of them fail it, `left` pass; `share` is dropped / seen (0 if none were seen).
    `failed_anywhere` fail this filter even if an earlier one dropped them, out of the `evaluated` rows for which it has
    evidence. `written` counts the synthetic texts among the dropped.
    """

    filter: str
    about: str
    seen: int
    dropped: int
    left: int
    share: float
    failed_anywhere: int
    evaluated: int
    written: int = 0


@dataclass(frozen=True)
class Combination:
    """The rows with the same verdicts: what dropped them first, all filters they fail, and the filters not evaluated.

    `records` and `kept` count the records whose first row is one of them, and those of which any text is kept.
    """

    dropped_by: str | None
    failed: frozenset[str]
    not_evaluated: frozenset[str]
    rows: int
    synthetic: bool = False
    records: int = 0
    kept: int = 0


def combinations(view: View) -> list[Combination]:
    """Count the combinations of verdicts that occur: a few hundred, whatever the number of rows."""
    found = view.rows(
        "SELECT any_value(dropped_by), any_value(failed), any_value(not_evaluated), count(*),"
        " coalesce(source = 'synthetic', false) AS made, count(*) FILTER (coalesce(text_no, 0) = 0),"
        " count(sample_key) FILTER (coalesce(text_no, 0) = 0)"
        " FROM data GROUP BY hash(dropped_by, failed, not_evaluated), made"  # grouping by the lists takes three times as long
    )
    return [Combination(by, frozenset(failed or ()), frozenset(missing or ()), *rest) for by, failed, missing, *rest in found]


def attrition(out: Storage, rules: Mapping[str, Rule]) -> list[Attrition]:
    """Return one line per filter, in the given order, from the decisions of an output.

    Rows dropped by anything not in `rules` get additional lines at the end, so that the last `left` is the number of
    kept rows. Raises OutputError if a file cannot be read.
    """
    with opened(parquet_files(out, "decisions"), COLUMNS) as view:
        return tally(combinations(view), rules)


def tally(found: Sequence[Combination], rules: Mapping[str, Rule]) -> list[Attrition]:
    """Turn counted combinations into one line per filter."""
    dropped, written = Counter[str](), Counter[str]()
    failed, missing = Counter[str](), Counter[str]()
    for one in found:
        if one.dropped_by is not None:
            dropped[one.dropped_by] += one.rows
            written[one.dropped_by] += one.rows if one.synthetic else 0
        failed.update(dict.fromkeys(one.failed, one.rows))
        missing.update(dict.fromkeys(one.not_evaluated, one.rows))
    total = alive = sum(one.rows for one in found)
    web = sum(one.rows for one in found if not one.synthetic)
    lines = []
    for name in [*rules, *sorted(dropped.keys() - rules.keys())]:
        share = dropped[name] / alive if alive else 0.0
        left = alive - dropped[name]
        rule = rules.get(name, Rule())
        judged = web if rule.web_texts_only else total
        evaluated = max(failed[name], judged - missing[name])
        lines.append(Attrition(name, rule.about, alive, dropped[name], left, share, failed[name], evaluated, written[name]))
        alive = left
    return lines


def overlaps(found: Iterable[Combination], filters: Sequence[str]) -> list[list[int]]:
    """Count the rows that fail both i and j (i itself on the diagonal): square, in the order of `filters`."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in found:
        for first in one.failed:
            for second in one.failed:
                counts[first, second] += one.rows
    return [[counts[first, second] for second in filters] for first in filters]


def attrition_table(rows: Sequence[Attrition], records: int | None = None, width: int = WIDTH) -> Table:
    """Format attrition for a terminal, from the input to what was kept; rows are texts, of `records` where these are known.

    In a narrow one the bar goes first, then what filters are about, then shares; counts and names stay.
    """
    from rich.text import Text

    total = rows[0].seen if rows else 0
    kept = rows[-1].left if rows else 0
    texts = any(row.written for row in rows) or records not in (None, total)
    lines = [["texts" if texts else "input", "", "", "", "", "", f"{total:,}", percent(total, total), bar(total, total)]]
    lines += [_cells(row, total) for row in rows]
    written = f"{sum(row.written for row in rows):,}"
    end = [f"{total - kept:,}", written, percent(total - kept, total), "", f"{kept:,}", percent(kept, total), bar(kept, total)]
    lines.append(["kept", "", *end])
    columns = _COLUMNS
    if not any(row.written for row in rows):
        columns, lines = _without(columns, _SYNTHETIC), [_without(line, _SYNTHETIC) for line in lines]
    styled = [[Text(cell, style="bold" if line is lines[-1] else "") for cell in line] for line in lines]
    for row, line in zip(rows, styled[1:-1], strict=True):
        line[2].stylize("red" if row.dropped else "dim")
    return table(columns, styled, width)


_COLUMNS = [
    Column("filter", least=20),
    Column("about", least=12, spare=3, style="dim"),
    number("dropped"),
    number("synthetic"),
    number("of seen", spare=1),
    number("fail here"),
    number("left"),
    number("of input", spare=2),
    Column("", least=BAR, spare=4),
]
_SYNTHETIC = 3


def _without(cells: Sequence[T], at: int) -> list[T]:
    return [*cells[:at], *cells[at + 1 :]]


def _cells(row: Attrition, total: int) -> list[str]:
    made = f"{row.written:,}" if row.written else ""
    fails = f"{row.failed_anywhere:,}" if row.evaluated else "not evaluated"
    shares = percent(row.dropped, row.seen), percent(row.left, total)
    return [row.filter, row.about, f"{row.dropped:,}", made, shares[0], fails, f"{row.left:,}", shares[1], bar(row.left, total)]


def percent(part: int, whole: int) -> str:
    """Format a percentage without rounding a small one to 0 or a large one to 100; empty if `whole` is 0.

    >>> percent(1, 3), percent(1, 10**6), percent(999_999, 10**6), percent(0, 5), percent(0, 0)
    ('33.3%', '<0.1%', '>99.9%', '0.0%', '')
    """
    if not whole:
        return ""
    value = 100 * part / whole
    if 0 < value < 0.05:
        return "<0.1%"
    if 99.95 <= value < 100:
        return ">99.9%"
    return f"{value:.1f}%"


def bar(part: int, whole: int) -> str:
    """Draw a share as a bar of at most BAR characters, in steps of an eighth of a character.

    >>> bar(1, 2), bar(0, 0)
    ('██████████', '')
    """
    eighths = round(BAR * 8 * part / whole) if whole else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
