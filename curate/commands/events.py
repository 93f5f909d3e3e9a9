"""The progress of a run off a terminal: a line now and then on standard error, and OUT/events.jsonl."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

import click

from curate.commands import saying
from curate.driver.progress import Progress
from curate.storage.backend import Storage

NAME = "events.jsonl"
EVERY = 30.0
"""Seconds between two lines about progress."""


class Shown(Progress, Protocol):
    """Progress that is shown while it is open."""

    def note(self, text: str) -> None:
        """Show a detail."""

    def __enter__(self) -> Shown:
        """Begin to show it."""

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Show nothing more."""


@dataclass
class Events:
    """Shows progress elsewhere too (`also`), writes a line each EVERY seconds, and keeps OUT/events.jsonl.

    The file is written where a step begins and at the end, after what earlier runs wrote. It holds no urls or texts of records.
    """

    out: Storage
    also: Shown
    log: Literal["none", "text", "json"] = "none"  # what is written to standard error
    clock: Callable[[], float] = time.monotonic
    verbose: bool = False
    _step: dict[str, Any] = field(default_factory=dict)
    _held: list[str] = field(default_factory=list)
    _since: float = 0.0
    _told: float = 0.0

    def __enter__(self) -> Events:
        self.also.__enter__()
        self._told = self.clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.also.__exit__(kind, value, trace)
        if self._step:  # else nothing was done, and OUT may not be ours
            self._event("end" if kind is None else "failure", **({} if kind is None else {"text": str(value) or kind.__name__}))
            self._write()

    def start(self, name: str, total: int) -> None:
        """Begin a step."""
        if not self._step:
            self._event("start")
        self._step = {"step": name, "done": 0, "total": total, "records": 0}
        self._since = self.clock()
        self._event("pass", step=name, total=total)
        self._write()
        self.also.start(name, total)

    def advance(self, records: int) -> None:
        """Count a shard of the step."""
        self._step["done"] += 1
        self._step["records"] += records
        self.also.advance(records)
        if self.clock() - self._told >= EVERY:
            self._told = self.clock()
            rate = round(self._step["records"] / max(self._told - self._since, 1e-3), 1)
            line = self._event("progress", **self._step, records_per_s=rate)
            if self.log == "json":
                click.echo(line, err=True)
            elif self.log == "text":
                click.echo(f"curate: {_sentence(self._step, rate)}", err=True)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self._event("warning", text=text)
        self.also.warn(text)

    def note(self, text: str) -> None:
        """Show a detail, where details are wanted; OUT/events.jsonl has none: it would grow by a line a shard."""
        if self.verbose:
            self.also.note(text)

    def _event(self, event: str, **more: Any) -> str:
        line = saying.event(event, **more)
        self._held.append(line)
        return line

    def _write(self) -> None:
        """Append what is held; an event that cannot be written ends no run."""
        try:
            self.out.write(NAME, (self.out.read(NAME) or b"") + "".join(f"{line}\n" for line in self._held).encode())
        except OSError:
            return
        self._held.clear()


def _sentence(step: dict[str, Any], rate: float) -> str:
    """Return a step's progress in one line.

    >>> _sentence({"step": "scan", "done": 3, "total": 12, "records": 30000}, 1000.0)
    'scan: 3 of 12 shards, 30,000 records, 1,000 records/s'
    """
    return f"{step['step']}: {step['done']:,} of {step['total']:,} shards, {step['records']:,} records, {rate:,.0f} records/s"
