"""Tables for a terminal of any width: words wrap, numbers are never cut, and what can be spared goes first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WIDTH = 110
"""Characters of a line that no terminal limits."""

GAP = 2  # characters between columns
_LEAST = 6  # of a column of words, where there is nothing more to spare

_NUMBER = re.compile(r"[<>+~-]?\d[\d,.:/%eE+-]*\S?")


@dataclass(frozen=True)
class Column:
    """A column: its heading, and what may happen to it where room is short.

    A column of numbers keeps its cells whole. One of words wraps, down to `least` characters, but never inside a number.
    Columns with a `spare` above 0 are left out where all others have shrunk, the highest first.
    """

    title: str
    numbers: bool = False
    right: bool = False
    least: int = 10
    spare: int = 0
    style: str = ""


def number(title: str, spare: int = 0) -> Column:
    """Return a column of numbers, which stand at its right."""
    return Column(title, numbers=True, right=True, spare=spare)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int, title: str | None = None) -> Table:
    """Return a table at most `width` characters wide, if its numbers fit into that."""
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = fitted(columns, [[cell.plain for cell in row] for row in cells], width)
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", title=title, title_justify="left")
    for at, wide in widths.items():
        column = columns[at]
        side = "right" if column.right else "left"
        made.add_column(column.title, width=wide, justify=side, overflow="fold", style=column.style)  # type: ignore[arg-type]
    for row in cells:
        made.add_row(*(row[at] for at in widths))
    return made


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Return the widths of the columns that are shown, by their place.

    >>> columns = [Column("name", least=4), number("records"), Column("about", spare=1)]
    >>> fitted(columns, [["a long name", "1,234,567", "of no weight"]], 40)
    {0: 11, 1: 9, 2: 12}
    >>> fitted(columns, [["a long name", "1,234,567", "of no weight"]], 16)
    {0: 5, 1: 9}
    """
    spans = {at: _span(column, [row[at] for row in rows], column.least) for at, column in enumerate(columns)}
    while True:
        widths = _shrunk(spans, width)
        spared = max(spans, key=lambda at: columns[at].spare)
        if _sum(widths) <= width:
            return widths
        if not columns[spared].spare:
            return _shrunk({at: _span(columns[at], [row[at] for row in rows], _LEAST) for at in spans}, width)
        del spans[spared]


def _shrunk(spans: Mapping[int, tuple[int, int]], width: int) -> dict[int, int]:
    """Return the widths of columns, of which the widest shrink until all fit or none can shrink further."""
    widths = {at: natural for at, (_, natural) in spans.items()}
    while _sum(widths) > width:
        wide = [at for at, value in widths.items() if value > spans[at][0]]
        if not wide:
            break
        widths[max(wide, key=lambda at: widths[at])] -= 1
    return widths


def _sum(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _span(column: Column, cells: Sequence[str], least: int) -> tuple[int, int]:
    """Return the least width of a column, and the one in which nothing wraps."""
    from rich.cells import cell_len

    natural = max(cell_len(line) for text in (column.title, *cells) for line in (text.splitlines() or [""]))
    if column.numbers:
        return max([*map(cell_len, cells), *map(cell_len, column.title.split()), 0]), natural
    words = [word for cell in cells for word in cell.split() if _NUMBER.fullmatch(word)]
    return max([min(natural, least), *map(cell_len, words)]), natural
