"""Statistics of a dataset without a recipe: counts, categories, quantiles and duplicates.

All numbers are exact (duplicates up to 64-bit hash collisions) and do not depend on the number of threads. DuckDB spills to disk
above its memory limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.report.query import View, opened
from curate.report.tables import GAP, WIDTH, Column, table
from curate.report.tables import number as numbers

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

POINTS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
HEADINGS = ("min", "1%", "5%", "25%", "median", "75%", "95%", "99%", "max")
TOP = 20
LANGUAGES = 15
CUT = 200

COLUMNS = {
    "key": "VARCHAR",
    "url": "VARCHAR",
    "text": "VARCHAR",
    "error": "VARCHAR",
    "bytes": "BIGINT",
    "sha256": "VARCHAR",
    "header": "VARCHAR",
    "format": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
    "animated": "BOOLEAN",
    "words": "INTEGER",
    "characters": "INTEGER",
    "language": "VARCHAR",
    "language_score": "FLOAT",
}
"""Columns that are read; missing ones are null."""

MEASURES = {
    "width": ("width", "pixels"),
    "height": ("height", "pixels"),
    "shorter side": ("least(width, height)", "pixels"),
    "aspect": ("greatest(width, height)::DOUBLE / nullif(least(width, height), 0)", "longer / shorter"),
    "words": ("words", "words"),
    "characters": ("characters", "code points"),
    "bytes": ("bytes", "bytes"),
}
"""The quantities with quantiles: SQL and unit."""


@dataclass(frozen=True)
class Quantiles:
    """Values at POINTS by nearest rank, so each one occurs in the data; `values` is empty if `counted` is 0."""

    name: str
    unit: str
    counted: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Repeated:
    """A text, or an image's sha256 with the key of an example, and the number of records that have it."""

    value: str
    records: int
    example: str = ""


@dataclass(frozen=True)
class Statistics:
    """A dataset in numbers. `duplicate_*`: records beyond the first with the same image or text."""

    records: int
    with_image: int
    with_text: int
    animated: int
    errors: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[str, int], ...]
    formats: tuple[tuple[str, int], ...]
    languages: tuple[tuple[str, int], ...]
    quantiles: tuple[Quantiles, ...]
    distinct_images: int
    duplicate_images: int
    distinct_texts: int
    duplicate_texts: int
    repeated_images: tuple[Repeated, ...]
    repeated_texts: tuple[Repeated, ...]


def statistics(facts_glob: list[str]) -> Statistics:
    """Count the facts (see COLUMNS) in parquet files, given by paths or globs.

    Raises OutputError if a file cannot be read or a glob matches nothing.
    """
    with opened(facts_glob, COLUMNS) as view:
        totals = view.rows("SELECT count(*), count(sha256), count(text), count(*) FILTER (animated) FROM data")[0]
        records, with_image, with_text, animated = totals
        images = _repetitions(view, "sha256")
        texts = _repetitions(view, "text")
        return Statistics(
            records=records,
            with_image=with_image,
            with_text=with_text,
            animated=animated,
            errors=_counted(view, "error", "error IS NOT NULL", 50),
            unreadable=_counted(view, "header", "header <> 'ok'", 50),
            formats=_counted(view, "format", "format IS NOT NULL", 50),
            languages=_counted(view, "language", "language IS NOT NULL", LANGUAGES),
            quantiles=tuple(_quantiles(view, name, sql, unit) for name, (sql, unit) in MEASURES.items()),
            distinct_images=images[0],
            duplicate_images=with_image - images[0],
            distinct_texts=texts[0],
            duplicate_texts=with_text - texts[0],
            repeated_images=images[1],
            repeated_texts=texts[1],
        )


def _counted(view: View, column: str, where: str, limit: int) -> tuple[tuple[str, int], ...]:
    """Return the most frequent values of a column with their counts."""
    found = view.rows(
        f"SELECT left({column}, {CUT}) AS value, count(*) AS n FROM data WHERE {where}"
        f" GROUP BY value ORDER BY n DESC, value LIMIT {limit}"
    )
    return tuple((value, n) for value, n in found)


def _quantiles(view: View, name: str, sql: str, unit: str) -> Quantiles:
    """Return quantiles by counting each value, which spills to disk; DuckDB's own keep all values in memory."""
    counted = view.rows(f"SELECT count({sql}) FROM data")[0][0]
    if not counted:
        return Quantiles(name, unit, 0, ())
    ranks = [max(1, math.ceil(point * counted)) for point in POINTS]
    columns = ", ".join(f"min(v) FILTER (reached >= {rank})" for rank in ranks)
    values = view.rows(
        f"WITH counted AS (SELECT {sql} AS v, count(*) AS n FROM data WHERE {sql} IS NOT NULL GROUP BY v),"
        f" ranked AS (SELECT v, sum(n) OVER (ORDER BY v) AS reached FROM counted) SELECT {columns} FROM ranked"
    )[0]
    return Quantiles(name, unit, counted, tuple(float(value) for value in values))


def _repetitions(view: View, column: str) -> tuple[int, tuple[Repeated, ...]]:
    """Return the number of distinct values of a column, and the most frequent ones (of at least two records)."""
    grouped = f"(SELECT hash({column}) AS h, count(*) AS n FROM data WHERE {column} IS NOT NULL GROUP BY h)"
    distinct, top = view.rows(f"SELECT count(*), max({{n: n, h: h}}, {TOP}) FILTER (n > 1) FROM {grouped}")[0]
    counts = {one["h"]: one["n"] for one in top or []}
    if not counts:
        return distinct, ()
    hashes = ", ".join(f"{key}::UBIGINT" for key in counts)
    found = view.rows(
        f"SELECT hash({column}), left(min({column}), {CUT}), left(min(key), {CUT}) FROM data"
        f" WHERE hash({column}) IN ({hashes}) GROUP BY 1"
    )
    repeated = [Repeated(value, counts[h], example or "") for h, value, example in found]
    return distinct, tuple(sorted(repeated, key=lambda one: (-one.records, one.value)))


def as_json(statistics: Statistics) -> dict[str, Any]:
    """Return the statistics as JSON values, quantiles by name."""
    plain = asdict(statistics)
    for name in ("errors", "unreadable", "formats", "languages"):
        plain[name] = dict(plain[name])
    plain["quantiles"] = {
        one.name: {"unit": one.unit, "counted": one.counted, **dict(zip(HEADINGS, one.values, strict=False))}
        for one in statistics.quantiles
    }
    plain["repeated_images"] = [asdict(one) for one in statistics.repeated_images]
    plain["repeated_texts"] = [{"value": one.value, "records": one.records} for one in statistics.repeated_texts]
    return plain


def overview(statistics: Statistics) -> list[tuple[str, int, int | None]]:
    """Return the totals: label, count, and the count it is a share of (None if it is not one)."""
    one = statistics
    return [
        ("records", one.records, None),
        ("with an image", one.with_image, one.records),
        ("with a text", one.with_text, one.records),
        ("animated", one.animated, one.with_image),
        ("different images", one.distinct_images, one.with_image),
        ("images seen before", one.duplicate_images, one.with_image),
        ("different texts", one.distinct_texts, one.with_text),
        ("texts seen before", one.duplicate_texts, one.with_text),
    ]


def kinds(statistics: Statistics) -> list[tuple[str, tuple[tuple[str, int], ...], int]]:
    """Return the categories that occur: title, values with counts, and the count that shares refer to."""
    one = statistics
    found = [
        ("errors of records", one.errors, one.records),
        ("unreadable headers", one.unreadable, one.with_image),
        ("formats", one.formats, one.with_image),
        ("languages", one.languages, one.with_text),
    ]
    return [(title, values, whole) for title, values, whole in found if values]


def render(statistics: Statistics, width: int = WIDTH) -> RenderableType:
    """Format the statistics for a terminal."""
    from rich.console import Group

    return Group(*_tables(statistics, width))


def _tables(statistics: Statistics, width: int) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    from curate.report.attrition import percent
    from curate.report.charts import short

    shares = [(what, f"{n:,}", "" if whole is None else percent(n, whole)) for what, n, whole in overview(statistics)]
    yield _table("dataset", ["", "records", "share"], shares, width)
    for title, values, whole in kinds(statistics):
        yield _table(title, ["", "records", "share"], [(value, f"{n:,}", percent(n, whole)) for value, n in values], width)
    lines = [(one.name, *map(short, one.values)) for one in statistics.quantiles if one.values]
    if lines:
        wide = [["", *HEADINGS], *lines]
        turned = [list(column) for column in zip(*wide, strict=True)]  # fewer columns: for a narrow terminal
        first, *others = wide if _wide(wide) <= width else turned
        yield _table("quantiles", first, others, width)
    repetitions = (("repeated texts", statistics.repeated_texts), ("repeated images", statistics.repeated_images))
    for title, repeated in repetitions:
        if repeated:
            yield _table(title, ["", "records"], [(_label(one), f"{one.records:,}") for one in repeated], width)


def _label(one: Repeated) -> str:
    return f"{one.value[:16]}…  {one.example}" if one.example and len(one.value) == 64 else one.value


def _wide(lines: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + GAP for column in zip(*lines, strict=True)) - GAP


def _table(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> Table:
    from curate.report.page import shorten

    columns = [Column(headings[0]), *map(numbers, headings[1:])]
    made = table(columns, [[shorten(cell, 80) for cell in line] for line in lines], width, title)
    made.add_row()
    return made


def number(value: float) -> str:
    """Format a quantile: whole numbers in full, others with two decimals.

    >>> number(12345.0), number(1.3333)
    ('12,345', '1.33')
    """
    return f"{int(value):,}" if value == int(value) else f"{value:,.2f}"


def write_html(statistics: Statistics, path: Path) -> None:
    """Write the statistics as a self-contained page, atomically."""
    from curate.report.page import write_page

    values = {
        "one": statistics,
        "overview": overview(statistics),
        "kinds": kinds(statistics),
        "headings": HEADINGS,
        "number": number,
    }
    write_page(path, "statistics.html.j2", values)
