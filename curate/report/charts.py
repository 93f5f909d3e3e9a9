"""Geometry of histograms: bins, and the positions of bars, ticks and thresholds. Knows nothing of SQL and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 50
UNITS = 90  # widest range of whole numbers with one bin per number
WIDTH, HEIGHT = 360.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 16.0, 24.0, 34.0
DECADES = 7  # on a log axis of fractions; smaller values fall into the first bin
EXACT = 2.0**53


@dataclass(frozen=True)
class Bins:
    """Bin i holds values in (edges[i-1], edges[i]], the first also all smaller ones. `whole`: values are whole numbers."""

    low: float
    edges: tuple[float, ...]
    log: bool
    whole: bool


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in SVG units."""

    at: float
    label: str


@dataclass(frozen=True)
class Part:
    """One coloured piece of a stacked bar; `kind` is its CSS class."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Mark:
    """A threshold: the position of its line, its label, and the side of the line that the label is on."""

    at: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Chart:
    """A drawn histogram, in SVG units of WIDTH by HEIGHT."""

    parts: tuple[Part, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


def nice(step: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten.

    >>> nice(0.7), nice(3), nice(21)
    (1.0, 5.0, 25.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= step * (1 - 1e-9)), 10 * power)


def linear_bins(low: float, high: float, *, whole: bool, anchor: float = 0.0) -> Bins:
    """Cut [low, high] into at most about BINS bins of a round width, with an edge at `anchor` (a threshold)."""
    size = max(abs(low), abs(high))
    step = nice(max((high - low) / BINS, size * 1e-9, 1e-9))
    if whole:
        step = 1.0 if high - low < UNITS and size < EXACT * 1e-6 else float(max(1, math.ceil(step)))
    anchor = math.fmod(anchor, step)
    steps = (low - anchor) / step
    start = anchor + (math.ceil(steps) - 1 if whole else math.floor(steps + 1e-9)) * step
    count = max(1, math.ceil((high - start) / step - 1e-9))
    return Bins(start, tuple(_round(start + step * (i + 1)) for i in range(count)), log=False, whole=whole)


def log_bins(low: float, high: float, *, whole: bool, anchor: float = 1.0) -> Bins:
    """Cut positive values up to `high` into bins of equal ratio, with an edge at `anchor`; a whole zero gets a separate bin."""
    floor = max(low, 1.0) if whole else max(low, high * 10.0**-DECADES, 10.0**-30)
    first, last = math.log10(floor), math.log10(max(high, floor * 10))
    per_decade = min(12, max(3, round(BINS / (last - first))))
    shift = math.fmod(math.log10(anchor) * per_decade, 1) if anchor > 0 else 0.0
    powers = range(math.floor(first * per_decade - shift + 1e-9), math.ceil(last * per_decade - shift - 1e-9) + 1)
    edges = [_round(10.0 ** ((power + shift) / per_decade)) for power in powers]
    if not whole:
        return Bins(edges[0], tuple(edges[1:]), log=True, whole=False)
    found = {float(round(edge)) for edge in edges}
    cuts = sorted(found - {0.0} if low > 0 else found | {0.0})
    if low > 0 and cuts[0] >= low:
        cuts.insert(0, cuts[0] - 1)
    start = cuts[0] if low > 0 else -1.0
    return Bins(start, tuple(cut for cut in cuts if cut > start), log=True, whole=True)


def _round(value: float) -> float:
    """Remove the noise of binary fractions: 0.30000000000000004 becomes 0.3."""
    return float(f"{value:.12g}") if abs(value) < EXACT else value


def borders(bins: Bins) -> list[float]:
    """Return the borders of bars on the axis: halfway between whole numbers if the values are whole."""
    places = [bins.low, *bins.edges]
    if bins.whole:
        places = [place + 0.5 for place in places]
    if not bins.log:
        return places
    places = [max(place, 10.0**-30) for place in places]
    logs = [math.log10(place) for place in places]
    if bins.whole and bins.low < 0:
        logs[0] = logs[1] - 0.2  # the bin of zero, whose logarithm does not exist
    return logs


def draw(bins: Bins, counts: Sequence[tuple[str, Sequence[int]]], thresholds: Sequence[float]) -> Chart:
    """Stack `counts` (kind, one count per bin), the first at the bottom, with a mark for each threshold."""
    places = borders(bins)
    low, high = places[0], places[-1]
    span = (WIDTH - LEFT - RIGHT) / ((high - low) or 1)
    totals = [sum(values) for values in zip(*(values for _, values in counts), strict=True)]
    top = _top(max(totals, default=0))
    scale = (HEIGHT - TOP - BOTTOM) / top
    parts = []
    for i in range(len(bins.edges)):
        base = HEIGHT - BOTTOM
        left, right = LEFT + (places[i] - low) * span, LEFT + (places[i + 1] - low) * span
        gap = min(1.0, (right - left) * 0.15)
        for kind, values in counts:
            if values[i]:
                tall = max(values[i] * scale, 0.4)  # so that a single record among millions is visible
                base -= tall
                parts.append(Part(kind, round(left, 2), round(base, 2), round(right - left - gap, 2), round(tall, 2)))
    fails = next((values for kind, values in counts if kind == "fails"), [0] * len(bins.edges))
    at = [(value, _place(value, bins, fails)) for value in thresholds if not bins.log or value > 0]
    inside = [(value, place) for value, place in at if low <= place <= high]
    return Chart(
        tuple(parts),
        tuple(Tick(round(LEFT + (place - low) * span, 2), label) for place, label in x_ticks(bins, low, high)),
        tuple(Tick(round(HEIGHT - BOTTOM - y * scale, 2), short(y)) for y in (0, top // 2, top)),
        tuple(_mark(value, LEFT + (place - low) * span) for value, place in inside),
    )


def _top(most: int) -> int:
    """Return a round, even number of at least `most`."""
    if most <= 2:
        return 2
    power = 10 ** (len(str(most)) - 1)
    halves = next(halves for halves in range(1, 21) if halves * power // 2 >= most)
    return int(halves * power // 2)


def _mark(value: float, at: float) -> Mark:
    right = at > LEFT + (WIDTH - LEFT - RIGHT) * 0.6
    return Mark(round(at, 2), short(value), "end" if right else "start")


def _place(threshold: float, bins: Bins, fails: Sequence[int]) -> float:
    """Return the axis position of a threshold: for whole numbers between two of them, on the side where verdicts change."""
    value = threshold
    if bins.whole and threshold in bins.edges:
        i = bins.edges.index(threshold)
        before = fails[i - 1] if i else 0
        after = fails[i + 1] if i + 1 < len(fails) else 0
        up = not after if fails[i] else not before
        value = threshold + 0.5 if up else (bins.edges[i - 1] if i else bins.low) + 0.5
    return math.log10(max(value, 10.0**-30)) if bins.log else value


def x_ticks(bins: Bins, low: float, high: float) -> list[tuple[float, str]]:
    """Return about five round axis positions between `low` and `high` (logarithms on a log axis), with labels."""
    if not bins.log:
        step = nice((high - low or 1) / 5)
        if bins.whole:
            step = max(1.0, step)
            step = step if step == int(step) else 2 * step
        values = [_round(step * i) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        return [(value, short(value)) for value in values]
    zero = [((low + math.log10(0.5)) / 2, "0")] if bins.whole and bins.low < 0 else []
    powers = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
    if len(powers) < 3:
        factors = [(power, factor) for power in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)]
        values = [factor * 10.0**power for power, factor in factors]
    else:
        values = [10.0**power for power in powers[:: math.ceil(len(powers) / 6)]]
    shown = [value for value in values if low <= math.log10(value) <= high and (value >= 1 or not bins.whole)]
    return zero + [(math.log10(value), short(value)) for value in shown]


def short(value: float) -> str:
    """Format a number in a few characters.

    >>> short(200), short(12_000), short(2_500_000), short(0.975), short(3.0), short(-4), short(2**63)
    ('200', '12k', '2.5M', '0.975', '3', '-4', '9.2e+18')
    """
    size = abs(value)
    if size >= 1e15:
        return f"{value:.2g}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return f"{value:.4g}"
