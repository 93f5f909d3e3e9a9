"""Distributions of evidence and facts in the decisions, counted by DuckDB in bins that fit the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core.facts import FACTS
from curate.report.charts import UNITS, Bins, Chart, draw, linear_bins, log_bins
from curate.report.query import View, quoted
from curate.report.rules import Rule

CATEGORIES = 12
CUT = 120

TEXTS = "(SELECT *, dropped_by IS NOT NULL AS gone FROM data)"
RECORDS = "(SELECT *, sample_key IS NULL AS gone FROM data WHERE coalesce(text_no, 0) = 0)"
"""Decisions per text, and per record, where `gone` is whether none of the record's texts is kept."""

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
    name: str
    sql: str
    whole: bool
    filter: str | None
    thresholds: tuple[float, ...]

    @property
    def finite(self) -> str:
        """SQL for the value as a DOUBLE; null if it is not finite."""
        value = f"({self.sql})::DOUBLE"
        return value if self.whole else f"CASE WHEN isfinite({value}) THEN {value} END"


def evidence_histograms(view: View, rules: Mapping[str, Rule], thresholds: Mapping[str, Any]) -> list[Histogram]:
    """Return a histogram for each filter with numeric evidence, with its thresholds (by filter name)."""
    drawn: dict[str, Histogram] = {}
    for source in (RECORDS, TEXTS):
        named = [name for name, rule in rules.items() if view.is_number(name) and (source == TEXTS) == (rule.about == "text")]
        columns = [_Column(name, quoted(name), view.is_whole(name), name, _numbers(thresholds.get(name))) for name in named]
        drawn.update(zip(named, _histograms(view, columns, source), strict=True))
    return [drawn[name] for name in rules if name in drawn]


def fact_histograms(view: View) -> list[Histogram]:
    """Return a histogram for every fact in FACT_COLUMNS that the decisions have."""
    columns = []
    for name in FACT_COLUMNS:
        if name == "aspect" and view.is_number("width") and view.is_number("height"):
            columns.append(_Column(name, ASPECT, whole=False, filter=None, thresholds=()))
        elif view.is_number(name):
            columns.append(_Column(name, quoted(name), view.is_whole(name), None, ()))
    return _histograms(view, columns, RECORDS)


def _numbers(found: object) -> tuple[float, ...]:
    if not isinstance(found, list | tuple):
        return ()
    return tuple(sorted(float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)))


def _histograms(view: View, columns: Sequence[_Column], source: str) -> list[Histogram]:
    if not columns:
        return []
    ranges_sql = ", ".join(f"min({column.finite}), max({column.finite}), count({column.finite})" for column in columns)
    total, *found = view.rows(f"SELECT count(*), {ranges_sql} FROM {source}")[0]
    ranges = [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]
    skewed = _skewed(view, columns, ranges, source)
    drawn = []
    for column, (low, high, counted), skew in zip(columns, ranges, skewed, strict=True):
        unit = LABELS.get(column.name, FACTS[column.name].doc if column.name in FACTS else "value")
        if not counted:
            drawn.append(Histogram(column.name, unit, None, 0, total, None, log=False, thresholds=column.thresholds))
            continue
        bins = _bins(column, low, high, skew=skew)
        counts = _counts(view, column, bins, source)
        fails = next((sum(values) for kind, values in counts if kind == "fails"), None)
        chart = draw(bins, counts, column.thresholds)
        drawn.append(
            Histogram(column.name, unit, chart, counted, total - counted, fails, log=bins.log, thresholds=column.thresholds)
        )
    return drawn


def _skewed(
    view: View, columns: Sequence[_Column], ranges: Sequence[tuple[float | None, float | None, int]], source: str
) -> list[bool]:
    """Return for each column whether at least half its values are in the first tenth of its range: it gets a log axis."""
    tests = []
    for column, (low, high, _) in zip(columns, ranges, strict=True):
        wide = low is not None and high is not None and low >= 0 and high >= (UNITS if column.whole else 20)
        border = (high or 0.0) / 10
        tests.append(f"count(*) FILTER ({column.finite} <= {border!r}::DOUBLE)" if wide else "count(*) FILTER (false)")
    shares = view.rows(f"SELECT {', '.join(tests)} FROM {source}")[0]
    return [share * 2 >= counted and share > 0 for share, (_, _, counted) in zip(shares, ranges, strict=True)]


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


def _counts(view: View, column: _Column, bins: Bins, source: str) -> list[tuple[str, list[int]]]:
    """Count rows by bin and verdict: kept, dropped (for evidence, by another filter), and failing this filter."""
    name = "" if column.filter is None else column.filter.replace("'", "''")
    fails = f"WHEN list_contains(failed, '{name}') THEN 'fails' " if name else ""
    edges = ", ".join(f"{edge!r}::DOUBLE" for edge in bins.edges)
    found = view.rows(
        f"SELECT CASE {fails}WHEN gone THEN 'dropped' ELSE 'kept' END AS fate,"
        f" histogram({column.finite}, [{edges}]) FROM {source} GROUP BY fate"
    )
    fates = dict(found)
    kinds = ("kept", "dropped", "fails") if name else ("kept", "dropped")
    return [(kind, _filled(fates.get(kind), bins)) for kind in kinds]


def _filled(found: Mapping[float, int] | None, bins: Bins) -> list[int]:
    """Return the counts by bin; values above the last edge (rounding of huge values) go to the last bin."""
    counts = [(found or {}).get(edge, 0) for edge in bins.edges]
    counts[-1] += sum((found or {}).values()) - sum(counts)
    return counts


def categories(view: View, names: Sequence[str]) -> list[Categories]:
    """Count the values of each categorical column."""
    tables = []
    for name in names:
        if name not in view.types or not _few(view, name):
            continue
        found = view.rows(
            f"SELECT left({quoted(name)}::VARCHAR, {CUT}) AS value, count(*) FILTER (NOT gone), count(*)"
            f" FROM {RECORDS} WHERE {quoted(name)} IS NOT NULL GROUP BY value"
        )
        if found:
            tables.append(_categories(name, found))
    return tables


def _few(view: View, name: str) -> bool:
    """Return whether a column is categorical, by its number of distinct values (keys are not)."""
    sample = f"(SELECT {quoted(name)} AS value FROM data WHERE {quoted(name)} IS NOT NULL)"
    values, rows = view.rows(f"SELECT count(DISTINCT hash(value)), count(*) FROM {sample}")[0]
    return bool(values <= 50 or (values <= 10_000 and values * 10 <= rows))


def _categories(name: str, found: Sequence[tuple[str, int, int]]) -> Categories:
    ordered = sorted(found, key=lambda row: (-row[2], row[0]))
    values = [Category(value, kept, n - kept) for value, kept, n in ordered]
    shown, rest = values[:CATEGORIES], values[CATEGORIES:]
    others = Category("others", sum(one.kept for one in rest), sum(one.dropped for one in rest))
    return Categories(name, tuple(shown), others, len(rest))


def text_columns(view: View, filters: Sequence[str]) -> list[str]:
    """Return the filters with text or boolean evidence."""
    return [name for name in filters if view.types.get(name) in ("VARCHAR", "BOOLEAN")]


def frequent_texts(view: View, limit: int = 12) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the most frequent kept and dropped texts that occur at least twice, with their rows."""
    return _frequent(view, "NOT gone", limit), _frequent(view, "gone", limit)


def _frequent(view: View, where: str, limit: int) -> list[tuple[str, int]]:
    # grouped by hash: there may be billions of texts, of up to a megabyte each
    found = view.rows(
        f"SELECT hash(text) AS h, count(*) AS n FROM {TEXTS} WHERE {where} AND text IS NOT NULL"
        f" GROUP BY h HAVING n > 1 ORDER BY n DESC, h LIMIT {limit}"
    )
    if not found:
        return []
    counts = dict(found)
    hashes = ", ".join(f"{key}::UBIGINT" for key in counts)
    texts = view.rows(f"SELECT hash(text), left(min(text), 250) FROM data WHERE hash(text) IN ({hashes}) GROUP BY 1")
    return sorted(((text, counts[key]) for key, text in texts), key=lambda row: (-row[1], row[0]))
