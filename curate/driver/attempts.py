"""Running a task over items with retries: dead workers, images that crash their decoder, full disks and GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, TypeVar

import pyarrow as pa

from curate.core.contracts import Needs, Report, Runner, Shard, ShardBreak, TaskDied, item_name, shard_name, task_name
from curate.core.errors import DiskFull, NetworkDown, OutOfDeviceMemory, OutputError
from curate.driver.progress import Progress, Quiet, note
from curate.fetch.image_log import open_images
from curate.passes.isolate import FindCrashes
from curate.passes.pack import Block
from curate.planning.plan import Plan
from curate.planning.plugins import Plugin, carried
from curate.storage.store import Store

ATTEMPTS = 3
"""How often a task is tried on one item before the item is given up. Crashes traced to an image do not count."""

ONE_CORE = Needs()

_WORTH_TELLING = 0.005  # seconds

_NO_ROWS = pa.table({"row": pa.array([], pa.int64()), "offset": pa.array([], pa.int64()), "bytes": pa.array([], pa.int64())})

T = TypeVar("T", Shard, Block)


@dataclass(frozen=True)
class Failure:
    """A shard that was given up, and why."""

    shard: Shard
    reason: str

    def described(self, name: str = "shard") -> dict[str, str]:
        """Return it as JSON values, with the shard's name under the key `name`."""
        return {name: shard_name(self.shard), "reason": self.reason}


@dataclass(frozen=True)
class CrashSearch:
    """Finds the images that kill or hang their decoder, in shards on which a worker died."""

    plan: Plan
    store: Store
    runner: Runner
    row_seconds: float

    def __call__(self, shards: list[Shard]) -> set[int]:
        """Record the crashing rows of some shards; return the indexes of the shards in which new ones were found."""
        if not shards:
            return set()
        decode = self.plan.decode
        others = tuple(stage for stage in self.plan.stages() if "image" in stage.reads and not stage.decodes)
        task = FindCrashes(self.store, self.plan.base_key, decode, self._sides(), self.row_seconds, others)
        answers = self.runner.map(task, shards, ONE_CORE)
        return {answer.shard for answer in answers if not isinstance(answer, TaskDied) and answer.counts["crashing_rows"]}

    def _sides(self) -> tuple[int, ...]:
        """Return the picture sizes, in pixels, that the models read."""
        from curate.models.checks import check

        stages = [stage for stage in self.plan.stages() if "pictures" in stage.reads]
        sides = {check(kind, spec).side for stage in stages for kind, spec in stage.models()}
        return tuple(sorted(side for side in sides if side))


@dataclass(frozen=True)
class Attempts:
    """Runs tasks over shards or blocks, retries them where a worker died, and collects failures and timings."""

    store: Store
    runner: Runner
    progress: Progress = field(default_factory=Quiet)
    find_crashes: Callable[[list[Shard]], set[int]] = lambda shards: set()
    max_failed: int | None = None
    plugins: tuple[Plugin, ...] = ()  # that the tasks' classes are from
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by activity, over all workers

    @property
    def failed(self) -> set[int]:
        """Return the indexes of the shards that were given up."""
        return {failure.shard.index for failure in self.failures}

    def run(self, task: Callable[[T], Report], items: Iterable[T], needs: Needs = ONE_CORE, advice: str | None = "") -> None:
        """Run a task over items until each is done or given up.

        `advice` is added to the failure of an item that did not fit a GPU's memory. With None, OutOfDeviceMemory is raised
        instead, once no item is being worked on. Raises OutputError when a disk is full or too many shards failed, and
        NetworkDown when a fetch reached no site.
        """
        tried: Counter[int] = Counter()
        waiting: Iterable[T] = items
        while waiting:
            deaths = self._round(task, waiting, needs, stop_when_full=advice is None)
            suspects = [death.item for death in deaths if death.error is None and isinstance(death.item, Shard)]
            cleared = self.find_crashes(suspects)
            again: list[Any] = []
            for death in deaths:
                if isinstance(death.item, Shard) and death.item.index in cleared:  # without the crashing rows it is a new item
                    again.append(death.item)
                else:
                    again += self._retried(death, tried, advice or "")
            waiting = again

    def _round(self, task: Callable[[T], Report], items: Iterable[T], needs: Needs, *, stop_when_full: bool) -> list[TaskDied]:
        """Run a task once over items; return the items that failed."""
        deaths: list[TaskDied] = []
        last: list[TaskDied] = []  # after which no other item is begun
        brought = carried(task, self.plugins)
        names: dict[int, str] = {}  # of what is worked on
        for answer in self.runner.map(brought, _named(takewhile(lambda _: not last, items), names), needs):
            note(self.progress, f"{task_name(task)}: {_told(answer, names)}")
            if isinstance(answer, TaskDied):
                offline = answer.error == NetworkDown.__name__  # every other item would fail in the same way
                (last if offline or (stop_when_full and _is_full(answer)) else deaths).append(answer)
                continue
            for name, seconds in answer.seconds.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.progress.advance(answer.rows)
        for death in last:
            raise OutOfDeviceMemory if _is_full(death) else NetworkDown(death.reason.partition(": ")[2])
        return deaths

    def _retried(self, death: TaskDied, tried: Counter[int], advice: str) -> list[Shard | Block]:
        """Return what to run again after a failure: the item, what is left of a block, or nothing."""
        if death.error == DiskFull.__name__:  # every other item would fail in the same way
            raise OutputError(f"{death.reason.partition(': ')[2]}; make room and run the same command again")
        item: Shard | Block = death.item
        tried[item.index] += 1
        if tried[item.index] < ATTEMPTS and not _is_full(death):
            return [item]
        self._give_up(item, f"{death.reason}; {advice}" if advice and _is_full(death) else death.reason)
        if isinstance(item, Block) and (rest := _without(item, self.failed)).shards:
            tried[item.index] = 0
            return [rest]
        return []

    def _give_up(self, item: Shard | Block, reason: str) -> None:
        shards = [item] if isinstance(item, Shard) else _unreadable(self.store, item)
        self.failures.extend(Failure(shard, reason) for shard in shards)
        if self.max_failed is not None and len(self.failures) > self.max_failed:
            raise OutputError(f"{len(self.failures)} shards failed, more than --max-failed-shards; the last: {reason}")


def _named(items: Iterable[T], names: dict[int, str]) -> Iterator[T]:
    """Yield items, and note their names by their indexes."""
    for item in items:
        names[item.index] = item_name(item)
        yield item


def _told(answer: Report | TaskDied, names: dict[int, str]) -> str:
    """Return what became of an item in one line, and forget its name.

    >>> _told(Report(3, 1200, {"read": 0.25, "decode": 1.5}), {3: "00003.tar"})
    '00003.tar: 1,200 records in 1.75 s (decode 1.50, read 0.25)'
    """
    if isinstance(answer, TaskDied):
        return f"{names.pop(answer.item.index, '')}: {answer.reason}"
    parts = sorted(answer.seconds.items(), key=lambda part: -part[1])
    detail = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts if seconds >= _WORTH_TELLING)
    line = f"{names.pop(answer.shard, '')}: {answer.rows:,} records in {sum(answer.seconds.values()):.2f} s"
    return line + (f" ({detail})" if detail else "") + (f"; cut short: {answer.error}" if answer.error else "")


def _is_full(death: TaskDied) -> bool:
    return death.error == OutOfDeviceMemory.__name__


def _without(block: Block, failed: set[int]) -> Block:
    return replace(block, shards=tuple(shard for shard in block.shards if shard.index not in failed))


def _unreadable(store: Store, block: Block) -> list[Shard]:
    """Return the shards of a block that cannot be opened any more, or all of them if each can."""
    found = []
    for shard in block.shards:
        try:
            with open_images(store, shard) as opened:
                list(opened.images(_NO_ROWS))
        except (OSError, ShardBreak):
            found.append(shard)
    return found or list(block.shards)
