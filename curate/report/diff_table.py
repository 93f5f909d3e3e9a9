"""A comparison of two outputs for a terminal, 80 characters wide or more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from curate.report.attrition import percent
from curate.report.diff import Diff, Evidence, Text
from curate.report.page import shorten, visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

CELLS = 20  # pairs of verdicts that are listed


def tables(diff: Diff) -> Iterator[RenderableType]:
    """Yield the parts of a comparison, from the totals to single records; each ends with a line of its own."""
    from rich.text import Text

    outs = (("A", diff.a), ("B", diff.b))
    yield Text("\n".join(f"{letter}: {visible(side.out)} (recipe {visible(side.recipe)})" for letter, side in outs))
    yield _totals(diff)
    if diff.settings:
        yield Text("\n".join(map(visible, diff.settings)), style="dim")
    yield from _verdicts(diff)
    yield from _evidence(diff)
    yield from _texts(diff)


def _table(words: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """Return an empty table: words wrap, numbers are never cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", title=title, title_justify="left")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _totals(diff: Diff) -> Table:
    table = _table(("",), ("A", "B"))
    lines = [("records", "records"), ("texts", "texts"), ("kept records", "kept"), ("kept texts", "texts_kept")]
    if all(side.texts == side.records for side in (diff.a, diff.b)):
        lines = [lines[0], lines[2]]
    lines += [("kept here, not in the other", "kept_alone"), ("  of them not in its input", "absent")]
    for heading, name in lines:
        table.add_row(heading, *(f"{getattr(side, name):,}" for side in (diff.a, diff.b)))
    table.add_row("in both", f"{diff.both:,}", f"{diff.both:,}")
    if diff.by_content:
        table.add_row("  found by sha256 and text", f"{diff.by_content:,}", f"{diff.by_content:,}")
    table.add_row("only in one", f"{diff.only_a:,}", f"{diff.only_b:,}")
    return table


def _verdicts(diff: Diff) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"same verdict: {diff.same_verdict:,} of {diff.both:,} records in both ({percent(diff.same_verdict, diff.both)})")
    changed = sorted((cell for cell in diff.verdicts if cell.a != cell.b), key=lambda cell: -cell.records)
    if not changed:
        return
    table = _table(("in A", "in B"), ("records",))
    for cell in changed[:CELLS]:
        verdicts = (Text(_named(verdict, letter)) for letter, verdict in (("A", cell.a), ("B", cell.b)))
        table.add_row(*verdicts, f"{cell.records:,}", style="bold" if "kept" in (cell.a, cell.b) else "")
    if len(changed) > CELLS:
        more = changed[CELLS:]
        table.add_row(f"{len(more)} other pairs", "", f"{sum(cell.records for cell in more):,}")
    yield table


def _named(verdict: str | None, letter: str) -> str:
    return f"not in {letter}" if verdict is None else visible(verdict)


def _evidence(diff: Diff) -> Iterator[RenderableType]:
    from rich.text import Text

    changed = [line for line in diff.evidence if line.changed or line.only_a or line.only_b]
    if same := len(diff.evidence) - len(changed):
        yield Text(f"same evidence: {same} of {len(diff.evidence)} filters of both")
    if not changed:
        return
    table = _table(("filter",), ("changed", "of", "only A", "only B", "by up to"), "evidence of records in both")
    for line in changed:
        numbers = (f"{number:,}" for number in (line.changed, line.compared, line.only_a, line.only_b))
        table.add_row(Text(visible(line.filter)), *numbers, "" if line.largest is None else f"{line.largest:.3g}")
    yield table
    if any(line.examples for line in changed):
        yield _examples(changed)


def _examples(lines: Sequence[Evidence]) -> Table:
    from rich.text import Text

    table = _table(("filter", "record", "in A", "in B"), (), "for example")
    for line in lines:
        for one in line.examples:
            record = f"{one.key} ({one.shard}, row {one.row})"
            table.add_row(*(Text(shorten(cell, 60)) for cell in (line.filter, record, one.a, one.b)))
    return table


def _texts(diff: Diff) -> Iterator[RenderableType]:
    from rich.text import Text

    found = diff.texts
    if found.captioned:
        yield Text(f"other captions: {found.captions_differ:,} of {found.captioned:,} records that both captioned")
    yield Text(f"other kept texts: {found.kept_differ:,} of {found.kept:,} records that both keep")
    if not found.examples:
        return
    table = _table(("record", "", "text", "verdict"), (), "for example")
    for one in found.examples:
        record = f"{one.key} ({one.shard}, row {one.row})"
        for letter, texts in (("A", one.a), ("B", one.b)):
            for text in texts:
                table.add_row(*map(Text, (shorten(record, 60), letter, *_cells(text))))
                record = ""
    yield table


def _cells(text: Text) -> tuple[str, str]:
    return shorten("" if text.text is None else text.text, 80), "kept" if text.dropped_by is None else visible(text.dropped_by)
