"""Distributions of evidence and facts in the decisions, counted by DuckDB in bins that fit the data.

Every query scans the decisions of all shards, and most of its time is that scan: so each of them asks for all columns at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core.facts import FACTS
from curate.report.charts import UNITS, Bins, Chart, draw, linear_bins, log_bins
from curate.report.query import View, literal, quoted
from curate.report.rules import Rule

CATEGORIES = 12
CUT = 120

RECORD = "coalesce(text_no, 0) = 0"
"""SQL for whether a row of the decisions is a record's first. A record is gone where its sample_key is null."""

FACT_COLUMNS = ("width", "height", "aspect", "bytes", "words", "characters")
"""Facts with a histogram in every report."""

ASPECT = "(greatest(width, height)::DOUBLE / nullif(least(width, height), 0))"

LABELS = {
    "width": "pixels",
    "height": "pixels",
    "aspect": "longer side / shorter side",
    "bytes": "bytes of the image file",
    "words": "words",
    "characters": "code points",
    "min_side": "shorter side, pixels",
    "aspect_ratio": "longer side / shorter side",
    "image_reuse": "different texts under the image",
    "caption_frequency": "different images under the text",
    "common_ngrams": "corpus count of the rarest n-gram",
    "caption_words": "words",
    "eval_overlap": "nearest evaluation image: cosine (method hash: bits apart)",
    "blocklist": "bits from the nearest listed hash",
    "nsfw": "probability",
    "caption_match": "P(match)",
    "clip_similarity": "cosine of image and text",
}

_LARGEST_SIDE = 65_535  # pixels, the maximum of JPEG


@dataclass(frozen=True)
class Histogram:
    """A drawn distribution. `counted` rows have a number, `empty` rows have none (not evaluated, or below the floor)."""

    name: str
    unit: str
    chart: Chart | None
    counted: int
    empty: int
    fails: int | None
    log: bool
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Category:
    """A value of a categorical column, with its kept and dropped rows."""

    value: str
    kept: int
    dropped: int


@dataclass(frozen=True)
class Categories:
    """The most frequent values of a column; `others` sums up the remaining `more` values."""

    name: str
    values: tuple[Category, ...]
    others: Category
    more: int


@dataclass(frozen=True)
class _Column:
    """A quantity: its SQL, whether it is of whole numbers and of texts (else of records), its filter if it is evidence."""

    name: str
    sql: str
    whole: bool
    of_texts: bool = False
    filter: str | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def finite(self) -> str:
        """SQL for the value as a DOUBLE; null if it is not finite."""
        value = f"({self.sql})::DOUBLE"
        return value if self.whole else f"CASE WHEN isfinite({value}) THEN {value} END"

    @property
    def rows(self) -> str:
        """SQL for whether a row of the decisions is one that it is about."""
        return "true" if self.of_texts else RECORD

    @property
    def fates(self) -> dict[str, str]:
        """SQL conditions by kind of verdict: kept, dropped (for evidence, by another filter), and failing this filter."""
        gone = "dropped_by IS NOT NULL" if self.of_texts else "sample_key IS NULL"
        if self.filter is None:
            return {"kept": f"NOT ({gone})", "dropped": gone}
        fails = f"coalesce(list_contains(failed, {literal(self.filter)}), false)"
        return {"kept": f"NOT ({gone}) AND NOT {fails}", "dropped": f"{gone} AND NOT {fails}", "fails": fails}


@dataclass(frozen=True)
class _Range:
    """The rows that a column is about, how many of them have a value, and the smallest and largest one."""

    rows: int
    counted: int
    low: float
    high: float


def distributions(view: View, rules: Mapping[str, Rule], thresholds: Mapping[str, Any]) -> list[list[Histogram]]:
    """Return two lists of histograms: of filters with numeric evidence (with thresholds by name), and of FACT_COLUMNS.

    The decisions are scanned three times, whatever the number of columns: for the ranges, for their shapes, for the counts.
    """
    evidence = [_evidence(view, name, rule, thresholds.get(name)) for name, rule in rules.items() if view.is_number(name)]
    columns = [*evidence, *_facts(view)]
    ranges = _ranges(view, columns)
    bins = _all_bins(view, columns, ranges)
    counts = _counts(view, columns, bins)
    drawn = [_drawn(*each) for each in zip(columns, ranges, bins, counts, strict=True)]
    return [drawn[: len(evidence)], drawn[len(evidence) :]]


def _evidence(view: View, name: str, rule: Rule, thresholds: object) -> _Column:
    return _Column(name, quoted(name), view.is_whole(name), rule.about == "text", name, _numbers(thresholds))


def _facts(view: View) -> Iterator[_Column]:
    for name in FACT_COLUMNS:
        if name == "aspect" and view.is_number("width") and view.is_number("height"):
            yield _Column(name, ASPECT, whole=False)
        elif view.is_number(name):
            yield _Column(name, quoted(name), view.is_whole(name))


def _numbers(found: object) -> tuple[float, ...]:
    if not isinstance(found, list | tuple):
        return ()
    return tuple(sorted(float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)))


def _ranges(view: View, columns: Sequence[_Column]) -> list[_Range]:
    asked = [
        part
        for one in columns
        for part in (
            f"count(*) FILTER ({one.rows})",
            *(f"{function}({one.finite}) FILTER ({one.rows})" for function in ("count", "min", "max")),
        )
    ]
    found = view.aggregates(asked)
    return [_Range(*found[i : i + 2], *(value or 0.0 for value in found[i + 2 : i + 4])) for i in range(0, len(found), 4)]


def _all_bins(view: View, columns: Sequence[_Column], ranges: Sequence[_Range]) -> list[Bins | None]:
    """Return the bins of each column; None for one without values.

    A column gets a log axis if at least half of its values are in the first tenth of its range.
    """
    tests = []
    for column, one in zip(columns, ranges, strict=True):
        wide = one.counted and one.low >= 0 and one.high >= (UNITS if column.whole else 20)
        near = f"{column.finite} <= {one.high / 10!r}::DOUBLE" if wide else "false"
        tests.append(f"count(*) FILTER ({column.rows} AND {near})")
    skewed = [near > 0 and near * 2 >= one.counted for near, one in zip(view.aggregates(tests), ranges, strict=True)]
    triples = zip(columns, ranges, skewed, strict=True)
    return [_bins(column, one.low, one.high, skew=skew) if one.counted else None for column, one, skew in triples]


def _drawn(column: _Column, found: _Range, bins: Bins | None, counts: dict[str, list[int]]) -> Histogram:
    unit = LABELS.get(column.name, FACTS[column.name].doc if column.name in FACTS else "value")
    if bins is None:
        return Histogram(column.name, unit, None, 0, found.rows, None, log=False, thresholds=column.thresholds)
    fails = sum(counts["fails"]) if "fails" in counts else None
    chart, empty = draw(bins, list(counts.items()), column.thresholds), found.rows - found.counted
    return Histogram(column.name, unit, chart, found.counted, empty, fails, log=bins.log, thresholds=column.thresholds)


def _bins(column: _Column, low: float, high: float, *, skew: bool) -> Bins:
    """Choose bins over the values and the thresholds, so that their marks are visible, unless they are far away."""
    near = [value for value in column.thresholds if low - (high - low) <= value <= high + (high - low)] or column.thresholds
    low, high = min(low, *near, low), max(high, *near, high)
    if column.name in ("width", "height", "min_side"):  # headers may claim anything: the last bin takes larger values
        high = max(low, min(high, _LARGEST_SIDE))
    anchor = column.thresholds[0] if column.thresholds else 0.0
    if skew:
        return log_bins(max(low, 0.0), high, whole=column.whole, anchor=anchor)
    return linear_bins(low, high, whole=column.whole, anchor=anchor)


def _counts(view: View, columns: Sequence[_Column], bins: Sequence[Bins | None]) -> list[dict[str, list[int]]]:
    """Count the rows of each column by kind of verdict and bin."""
    cut = [(column, one) for column, one in zip(columns, bins, strict=True) if one is not None]
    asked = [_histogram(column, one, fate) for column, one in cut for fate in column.fates.values()]
    found = iter(view.aggregates(asked))
    return [
        {} if one is None else {kind: _filled(next(found), one) for kind in column.fates}
        for column, one in zip(columns, bins, strict=True)
    ]


def _histogram(column: _Column, bins: Bins, fate: str) -> str:
    edges = ", ".join(f"{edge!r}::DOUBLE" for edge in bins.edges)
    return f"histogram({column.finite}, [{edges}]) FILTER ({column.rows} AND {fate})"


def _filled(found: Mapping[float, int] | None, bins: Bins) -> list[int]:
    """Return the counts by bin; values above the last edge (rounding of huge values) go to the last bin."""
    counts = [(found or {}).get(edge, 0) for edge in bins.edges]
    counts[-1] += sum((found or {}).values()) - sum(counts)
    return counts


def categories(view: View, names: Sequence[str]) -> list[Categories]:
    """Count the values of each categorical column: of those with few values (keys are not), all in one scan."""
    there = [name for name in names if name in view.types]
    sizes = view.aggregates(
        [part for name in there for part in (f"count(DISTINCT hash({quoted(name)}))", f"count({quoted(name)})")]
    )
    asked = [name for name, *size in zip(there, sizes[::2], sizes[1::2], strict=True) if _few(*size)]
    if not asked:
        return []
    each = {name: f"c{i}" for i, name in enumerate(asked)}  # columns of one grouping set each: the others are null there
    values = ", ".join(f"left({quoted(name)}::VARCHAR, {CUT}) AS {short}" for name, short in each.items())
    which = " ".join(f"WHEN grouping({short}) = 0 THEN {literal(name)}" for name, short in each.items())
    found = view.rows(
        f"SELECT CASE {which} END, coalesce({', '.join(each.values())}) AS value, count(sample_key), count(*)"
        f" FROM (SELECT sample_key, {values} FROM data WHERE {RECORD})"
        f" GROUP BY GROUPING SETS ({', '.join(f'({short})' for short in each.values())}) HAVING value IS NOT NULL"
    )
    tables = ((name, [(value, kept, n) for of, value, kept, n in found if of == name]) for name in asked)
    return [_categories(name, rows) for name, rows in tables if rows]


def _few(values: int, rows: int) -> bool:
    """Return whether a column is categorical, by its number of distinct values and of rows that have one."""
    return 0 < values <= 50 or (0 < values <= 10_000 and values * 10 <= rows)


def _categories(name: str, found: Sequence[tuple[str, int, int]]) -> Categories:
    ordered = sorted(found, key=lambda row: (-row[2], row[0]))
    values = [Category(value, kept, n - kept) for value, kept, n in ordered]
    shown, rest = values[:CATEGORIES], values[CATEGORIES:]
    others = Category("others", sum(one.kept for one in rest), sum(one.dropped for one in rest))
    return Categories(name, tuple(shown), others, len(rest))


def text_columns(view: View, filters: Sequence[str]) -> list[str]:
    """Return the filters with text or boolean evidence."""
    return [name for name in filters if view.types.get(name) in ("VARCHAR", "BOOLEAN")]


def frequent_texts(view: View, limit: int = 12) -> list[list[tuple[str, int]]]:
    """Return the most frequent kept and dropped texts that occur at least twice, with their rows."""
    # grouped by hash: there may be billions of texts, of up to a megabyte each
    tops = ", ".join(f"max({{n: {fate}, rest: -(h::HUGEINT)}}, {limit}) FILTER ({fate} > 1)" for fate in ("kept", "gone"))
    tables = view.rows(
        f"SELECT {tops} FROM (SELECT hash(text) AS h, count(*) FILTER (dropped_by IS NULL) AS kept, count(dropped_by) AS gone"
        f" FROM data WHERE text IS NOT NULL GROUP BY h)"
    )[0]
    counts = [{-one["rest"]: one["n"] for one in table or []} for table in tables]
    hashes = ", ".join(f"{key}::UBIGINT" for key in dict.fromkeys(key for table in counts for key in table))
    if not hashes:
        return [[] for _ in counts]
    texts = dict(view.rows(f"SELECT hash(text), left(min(text), 250) FROM data WHERE hash(text) IN ({hashes}) GROUP BY 1"))
    return [sorted(((texts[h], n) for h, n in table.items()), key=lambda row: (-row[1], row[0])) for table in counts]
