"""Progress of a run, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from curate.passes.evaluation import WAIT
from curate.report.attrition import Attrition

_MODELS = ("caption", "match")  # stages whose models wait for images


class Progress(Protocol):
    """Receives the progress of a run; the terminal draws it."""

    def start(self, name: str, total: int) -> None:
        """Begin a step with `total` items."""

    def advance(self, records: int) -> None:
        """Count one item of the step as done, with so many records."""

    def warn(self, text: str) -> None:
        """Show a warning."""


@runtime_checkable
class Detailed(Protocol):
    """Progress that shows details too: what each pass does, shard by shard, and what of earlier runs it uses."""

    def note(self, text: str) -> None:
        """Show a detail."""


def note(progress: Progress, text: str) -> None:
    """Tell a detail, if the progress shows such."""
    if isinstance(progress, Detailed):
        progress.note(text)


def begin(progress: Progress, name: str, missing: int, every: int) -> None:
    """Begin a step with `missing` items of `every`; the others are as earlier runs left them."""
    progress.start(name, missing)
    if every > missing:
        note(progress, f"{name}: {every - missing:,} of {every:,} are done already, by earlier runs")


@dataclass(frozen=True)
class Quiet:
    """Progress that is not shown."""

    def start(self, name: str, total: int) -> None:
        """Do nothing."""

    def advance(self, records: int) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    out: str  # path or URL
    state: str = "done"  # done, or nothing to do
    records: int = 0
    texts: int = 0  # with the synthetic ones
    kept: int = 0  # records: those with a kept text
    failed: list[dict[str, str]] = field(default_factory=list)  # shards given up: shard, reason
    partial: list[dict[str, str]] = field(default_factory=list)  # shards with records lost after a break: shard, reason
    seconds: dict[str, float] = field(default_factory=dict)  # by activity, over all workers; `wait` keeps no core busy
    attrition: list[Attrition] | None = None  # a line of each filter, where the report was made just now

    def idle(self) -> float | None:
        """Return the share of the time of captioner and matcher that they spent waiting for images; None without them."""
        return idle(self.seconds)


def idle(seconds: dict[str, float]) -> float | None:
    """Return the share of the time of captioner and matcher that they spent waiting for images; None without them.

    >>> idle({"caption": 2.0, "match": 1.0, "wait": 1.0, "decode": 5.0}), idle({"decode": 5.0})
    (0.25, None)
    """
    busy = sum(seconds.get(name, 0.0) for name in _MODELS)
    waited = seconds.get(WAIT, 0.0)
    return waited / (waited + busy) if busy else None
