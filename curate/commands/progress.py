"""Progress on the terminal: bars with rates, and warnings."""

from __future__ import annotations

import time
from types import TracebackType

from curate.commands.saying import say


class Bars:
    """Shows records, rate and time left of each step; shows no bars if standard error is not a terminal, or with `hidden`."""

    def __init__(self, *, hidden: bool = False, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = [TextColumn("{task.description:20}"), BarColumn(30), MofNCompleteColumn(), TextColumn("shards"),
                   TextColumn("{task.fields[rate]:>16}"), TimeElapsedColumn(), TimeRemainingColumn()]  # fmt: skip
        self._progress = Progress(*columns, console=console, disable=hidden or not console.is_terminal)
        self._quiet = quiet
        self._task: object = None
        self._records, self._since = 0, 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, name: str, total: int) -> None:
        """Begin a step."""
        self._task = self._progress.add_task(name, total=total or None, rate="")
        self._records, self._since = 0, time.monotonic()

    def advance(self, records: int) -> None:
        """Count a shard of the step."""
        self._records += records
        rate = self._records / max(time.monotonic() - self._since, 1e-3)
        self._progress.update(self._task, advance=1, rate=f"{rate:,.0f} records/s")  # type: ignore[arg-type]

    def warn(self, text: str) -> None:
        """Print a warning above the bars."""
        if not self._quiet:
            say(text)

    def note(self, text: str) -> None:
        """Print a detail above the bars."""
        say(text, "detail")
