"""What happens to items whose worker dies: how often they are tried, what is given up, and what ends the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from curate.core.contracts import Needs, Report, Shard, TaskDied
from curate.core.counting import Counting
from curate.core.errors import DiskFull, OutOfDeviceMemory, OutputError
from curate.driver.attempts import ATTEMPTS, Attempts
from curate.passes.pack import Block
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.running import make_tar, pairs


def shard(index: int, url: str = "") -> Shard:
    return Shard(index, url or f"{index}.tar", "tar", 1, f"{index:016x}", None, ())


@dataclass
class Dying:
    """A runner on which items die as often as `deaths` says, of `error` or (None) with their worker."""

    deaths: dict[int, int]
    error: type[Exception] | None = None
    given: list[int] = field(default_factory=list)

    def map(self, task: Callable[[Any], Any], items: Iterable[Any], needs: Needs) -> Iterator[Any]:
        for item in items:
            self.given.append(item.index)
            if self.deaths.get(item.index, 0):
                self.deaths[item.index] -= 1
                name = None if self.error is None else self.error.__name__
                yield TaskDied(item, f"{name}: no more" if name else "its worker died", error=name)
            else:
                yield task(item)

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        raise NotImplementedError


def done(item: Shard | Block) -> Report:
    return Report(item.index, 1, {"work": 0.5})


def attempts(runner: Dying, tmp_path: Path, **more: Any) -> Attempts:
    return Attempts(Store(storage(tmp_path)), runner, **more)


def test_three_attempts_are_made_and_no_more(tmp_path: Path) -> None:
    runner = Dying({1: ATTEMPTS - 1, 2: 99})
    made = attempts(runner, tmp_path)
    made.run(done, map(shard, range(3)))
    assert ATTEMPTS == 3 and Counter(runner.given) == {0: 1, 1: 3, 2: 3}
    assert [failure.described() for failure in made.failures] == [{"shard": "2.tar", "reason": "its worker died"}]
    assert (made.failed, made.seconds) == ({2}, {"work": 1.0})


def test_a_shard_whose_crashing_rows_were_found_is_tried_without_counting(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def find_crashes(shards: list[Shard]) -> set[int]:
        asked.append([one.index for one in shards])
        return {one.index for one in shards if len(asked) < 5}

    runner = Dying({0: 6})
    made = attempts(runner, tmp_path, find_crashes=find_crashes)
    made.run(done, [shard(0)])
    assert (runner.given, made.failures) == ([0] * 7, [])
    assert asked == [[0]] * 6 + [[]]
    raised = attempts(Dying({0: 1}, ValueError), tmp_path, find_crashes=lambda shards: {one.index for one in shards})
    raised.run(done, [shard(0)])
    assert raised.failures == []


def test_a_full_disk_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^no more; make room and run the same command again"):
        attempts(Dying({0: 1}, DiskFull), tmp_path).run(done, [shard(0)])


def test_a_full_gpu_ends_the_step_or_fails_the_shard(tmp_path: Path) -> None:
    runner = Dying({1: 99}, OutOfDeviceMemory)
    made = attempts(runner, tmp_path)
    with pytest.raises(OutOfDeviceMemory):
        made.run(done, map(shard, range(5)), advice=None)
    assert runner.given == [0, 1] and made.failures == []  # nothing was handed out afterwards
    made.run(done, map(shard, range(3)), advice="set batch=1")
    assert [(one.shard.index, one.reason) for one in made.failures] == [(1, "OutOfDeviceMemory: no more; set batch=1")]
    assert runner.given[2:] == [0, 1, 2]  # once: another attempt needs as much memory


def test_too_many_failures_end_the_run(tmp_path: Path) -> None:
    made = attempts(Dying({0: 99, 1: 99}), tmp_path, max_failed=1)
    with pytest.raises(OutputError, match="2 shards failed, more than --max-failed-shards; the last: its worker died"):
        made.run(done, map(shard, range(3)))


def test_a_block_goes_on_without_the_shards_that_cannot_be_read(tmp_path: Path) -> None:
    there = str(make_tar(tmp_path / "0.tar", pairs([1])))
    block = Block(7, (shard(0, there), shard(1, str(tmp_path / "gone.tar"))), 0)
    packed: list[Block] = []

    def pack(item: Block) -> Report:
        packed.append(item)
        return done(item)

    made = attempts(Dying({7: ATTEMPTS}), tmp_path / "out")
    made.run(pack, [block])
    assert [one.index for one in packed[0].shards] == [0]
    assert [failure.described() for failure in made.failures] == [{"shard": "gone.tar", "reason": "its worker died"}]
    whole = attempts(Dying({7: ATTEMPTS}), tmp_path / "out")
    whole.run(pack, [Block(7, (shard(0, there),), 0)])
    assert whole.failed == {0} and len(packed) == 1
