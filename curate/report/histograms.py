"""Distributions of evidence and facts over the decisions, counted by DuckDB into bins that fit the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core.facts import FACTS
from curate.report.attrition import described
from curate.report.charts import UNITS, Bins, Chart, draw, linear_bins, log_bins
from curate.report.query import View, quoted

CATEGORIES = 12
CUT = 120

TEXTS = "(SELECT *, dropped_by IS NOT NULL AS gone FROM data)"
RECORDS = "(SELECT *, sample_key IS NULL AS gone FROM data WHERE coalesce(text_no, 0) = 0)"
"""Decisions by text, and by record: what is known of the image, with whether any of its texts is kept."""

FACT_COLUMNS = ("width", "height", "aspect", "bytes", "words", "characters")
"""Facts whose distribution is shown in every report."""

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


_LARGEST_SIDE = 65_535  # pixels; what JPEG can hold


@dataclass(frozen=True)
class Histogram:
    """One distribution, drawn. `counted` rows have a number, `empty` rows have none (not evaluated, below the floor)."""

    name: str
    unit: str
    chart: Chart | None
    counted: int
    empty: int
    fails: int | None
    log: bool
    marks: tuple[float, ...]


@dataclass(frozen=True)
class Category:
    """One value of a categorical column: rows kept and dropped."""

    value: str
    kept: int
    dropped: int


@dataclass(frozen=True)
class Categories:
    """The most frequent values of one column; `others` sums the rest, of which there are `more` values."""

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
    marks: tuple[float, ...]

    @property
    def finite(self) -> str:
        """SQL for the value as a DOUBLE, null where it is not a finite number."""
        value = f"({self.sql})::DOUBLE"
        return value if self.whole else f"CASE WHEN isfinite({value}) THEN {value} END"


def evidence_histograms(view: View, filters: Sequence[str], marks: Mapping[str, Any]) -> list[Histogram]:
    """Return a histogram of each filter's evidence, where that is a number, with its thresholds."""
    drawn: dict[str, Histogram] = {}
    for source in (RECORDS, TEXTS):
        named = [name for name in filters if view.is_number(name) and (source == TEXTS) == (described(name).about == "text")]
        columns = [_Column(name, quoted(name), view.is_whole(name), name, _numbers(marks.get(name))) for name in named]
        drawn.update(zip(named, _histograms(view, columns, source), strict=True))
    return [drawn[name] for name in filters if name in drawn]


def fact_histograms(view: View) -> list[Histogram]:
    """Return a histogram of every fact of FACT_COLUMNS that the decisions have."""
    columns = []
    for name in FACT_COLUMNS:
        if name == "aspect" and view.is_number("width") and view.is_number("height"):
            columns.append(_Column(name, ASPECT, whole=False, filter=None, marks=()))
        elif view.is_number(name):
            columns.append(_Column(name, quoted(name), view.is_whole(name), None, ()))
    return _histograms(view, columns, RECORDS)


def _numbers(found: object) -> tuple[float, ...]:
    if not isinstance(found, list | tuple):
        return ()
    return tuple(sorted(float(mark) for mark in found if isinstance(mark, int | float) and math.isfinite(mark)))


def _histograms(view: View, columns: Sequence[_Column], source: str) -> list[Histogram]:
    if not columns:
        return []
    wanted = ", ".join(f"min({column.finite}), max({column.finite}), count({column.finite})" for column in columns)
    total, *found = view.rows(f"SELECT count(*), {wanted} FROM {source}")[0]
    ranges = [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]
    skewed = _skewed(view, columns, ranges, source)
    drawn = []
    for column, (low, high, counted), skew in zip(columns, ranges, skewed, strict=True):
        unit = LABELS.get(column.name, FACTS[column.name].doc if column.name in FACTS else "value")
        if not counted:
            drawn.append(Histogram(column.name, unit, None, 0, total, None, log=False, marks=column.marks))
            continue
        bins = _bins(column, low, high, skew=skew)
        counts = _counts(view, column, bins, source)
        fails = next((sum(values) for kind, values in counts if kind == "fails"), None)
        chart = draw(bins, counts, column.marks)
        drawn.append(Histogram(column.name, unit, chart, counted, total - counted, fails, log=bins.log, marks=column.marks))
    return drawn


def _skewed(
    view: View, columns: Sequence[_Column], ranges: Sequence[tuple[float | None, float | None, int]], source: str
) -> list[bool]:
    """Say for each column whether most values lie in the first tenth of its range: then its axis is a logarithm."""
    tests = []
    for column, (low, high, _) in zip(columns, ranges, strict=True):
        wide = low is not None and high is not None and low >= 0 and high >= (UNITS if column.whole else 20)
        border = (high or 0.0) / 10
        tests.append(f"count(*) FILTER ({column.finite} <= {border!r}::DOUBLE)" if wide else "count(*) FILTER (false)")
    shares = view.rows(f"SELECT {', '.join(tests)} FROM {source}")[0]
    return [share * 2 >= counted and share > 0 for share, (_, _, counted) in zip(shares, ranges, strict=True)]


def _bins(column: _Column, low: float, high: float, *, skew: bool) -> Bins:
    """Choose bins over the values and, where they are not far off, the thresholds too, so that their lines are seen."""
    near = [mark for mark in column.marks if low - (high - low) <= mark <= high + (high - low)] or column.marks
    low, high = min(low, *near, low), max(high, *near, high)
    if column.name in ("width", "height", "min_side"):  # headers of bombs claim anything: the last bin takes them
        high = max(low, min(high, _LARGEST_SIDE))
    anchor = column.marks[0] if column.marks else 0.0
    if skew:
        return log_bins(max(low, 0.0), high, whole=column.whole, anchor=anchor)
    return linear_bins(low, high, whole=column.whole, anchor=anchor)


def _counts(view: View, column: _Column, bins: Bins, source: str) -> list[tuple[str, list[int]]]:
    """Count rows by bin and fate: kept, dropped (by another filter, for evidence) and failing this filter."""
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
    """Order a histogram by bin; what is above the last edge (rounding of huge values) belongs to the last bin."""
    counts = [(found or {}).get(edge, 0) for edge in bins.edges]
    counts[-1] += sum((found or {}).values()) - sum(counts)
    return counts


def categories(view: View, names: Sequence[str]) -> list[Categories]:
    """Count the values of each column that has few enough of them to be categories."""
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
    """Say whether a column is made of categories, by the number of its values: keys are not."""
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
    """Name the filters whose evidence is words or a yes or no."""
    return [name for name in filters if view.types.get(name) in ("VARCHAR", "BOOLEAN")]


def frequent_texts(view: View, limit: int = 12) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the texts shared by most rows among the kept and among the dropped, each with its rows, at least two."""
    return _frequent(view, "NOT gone", limit), _frequent(view, "gone", limit)


def _frequent(view: View, where: str, limit: int) -> list[tuple[str, int]]:
    # grouped by hash: texts may be a megabyte each, and there may be billions of them
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
