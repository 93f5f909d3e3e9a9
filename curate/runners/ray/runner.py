"""The runner for a Ray cluster: tasks for CPU passes, and for models or GPUs a pool of actors that grows with the cluster.

Ray schedules and reserves. The caller decides which items are tried again, so nothing is retried here but items that were
lost with their node. Only reports are sent, never image bytes.

Tasks and not Ray Data, which does not tell which item killed a worker: 300 tiny shards cost 9 to 14 ms each as tasks, where
the scan alone takes 4 to 8 ms, and 32 to 35 ms by Ray Data with one shard per task (7 to 12 with eight); two nodes, busy cores.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import ray
from ray import exceptions

from curate.core.contracts import Needs, TaskDied, task_name
from curate.core.counting import Counting
from curate.core.errors import RunnerError
from curate.runners.ray.counts import ray_counting
from curate.runners.ray.pools import Actors, Bounds, Pool, Task, Tasks

T = TypeVar("T")
R = TypeVar("R")

_LOST = 20  # times that an item is run again because its node was lost
_REACH_SECONDS = 10.0


class RayRunner:
    """Runs on the cluster at `address` (auto, or ray://HOST:10001), on at most `workers` workers or `gpus` GPUs where given.

    Pools of workers with models start with `least` workers.
    """

    def __init__(self, address: str = "auto", workers: int | None = None, gpus: int | None = None, least: int = 1) -> None:
        self._address, self._workers, self._gpus, self._least = address, workers, gpus, least
        self._actors: tuple[Needs, Actors] | None = None  # kept for the next pass with the same needs: their models are loaded

    def __enter__(self) -> RayRunner:
        try:
            _reach(self._address)
            _connect(self._address)
        except (OSError, exceptions.RayError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RunnerError(f"no Ray cluster at {self._address}: {lines[0]} (`ray start --head` starts one)") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._end_actors()
        ray.shutdown()

    def size(self, resource: str) -> int:
        """Return how many of a resource (CPU, GPU) the cluster has now."""
        return int(ray.cluster_resources().get(resource, 0))

    def cores_beside_a_gpu(self) -> int:
        """Return the cores per GPU of the node that has the fewest; 1 while no node has a GPU."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
        return max(1, min((int(node.get("CPU", 1) // node["GPU"]) for node in nodes), default=1))

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        """Yield answers as they come; items are taken at most two per core ahead, or one per actor."""
        if self._actors is not None and self._actors[0] != needs:
            self._end_actors()  # they hold resources that this pass may need
        if not (needs.gpus or needs.models):
            yield from _answers(Tasks(needs, self._workers), _put(task), items)
            return
        if self._actors is None:
            most = (int(self._gpus / needs.gpus) if self._gpus else None) if needs.gpus else self._workers
            self._actors = needs, Actors(needs, Bounds(most, self._least))
        ended = False
        try:
            yield from _answers(self._actors[1], _put(task), items)
            ended = True
        finally:
            if not ended:  # the caller stopped: nobody takes the answers of busy ones
                self._end_actors()

    def _end_actors(self) -> None:
        if self._actors is not None:
            self._actors[1].close()
            self._actors = None

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        """Open a session on Ray Data, which spills to the nodes' own disks."""
        return ray_counting(scratch)


def _connect(address: str) -> None:
    """Connect to a cluster. Raises OSError, RayError or ValueError."""
    connect = partial(ray.init, address=address, log_to_driver=False, logging_level="warning", ignore_reinit_error=True)
    try:
        connect()
    except ConnectionError:
        if not address.startswith("ray://"):
            raise
        ray.shutdown()
        connect()  # once more: a busy head may not have started this client's server within Ray's half a minute


def _reach(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()


def _put(task: Callable[[Any], Any]) -> Task:
    return Task(ray.put(task), task_name(task))


def _answers(pool: Pool, task: Task, items: Iterable[Any]) -> Iterator[Any]:
    stream, again = iter(items), deque[Any]()
    under_way: dict[Any, Any] = {}
    lost: dict[int, int] = {}  # by id(): the items under way are kept alive here
    while True:
        while (item := again.popleft() if again else next(stream, None)) is not None:
            if (reference := pool.start(task, item)) is None:
                again.appendleft(item)
                break
            under_way[reference] = item
        if not under_way and not again:
            return
        for reference in pool.wait(list(under_way)):
            item = under_way.pop(reference)
            answer = _answer(reference, item)
            pool.ended(reference, alive=not isinstance(answer, _Death))
            if isinstance(answer, _Death) and answer.of_node and lost.get(id(item), 0) < _LOST:
                lost[id(item)] = lost.get(id(item), 0) + 1
                again.append(item)
            else:
                lost.pop(id(item), None)
                yield TaskDied(item, answer.reason) if isinstance(answer, _Death) else answer


class _Death:
    """How a worker died."""

    def __init__(self, error: Exception) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        self.reason = f"its worker died: {lines[0] if lines else type(error).__name__}"
        text = str(error)
        self.of_node = isinstance(error, exceptions.NodeDiedError) or "node died" in text or "node is dead" in text.lower()


def _answer(reference: Any, item: Any) -> Any:
    try:
        answer = ray.get(reference)
    except exceptions.RayTaskError as error:  # raised before the task ran: the node lacks code or packages
        return TaskDied(item, f"{type(error.cause).__name__}: {error.cause}", error=type(error.cause).__name__)
    except exceptions.RayError as error:
        return _Death(error)
    return TaskDied(item, answer.reason, error=answer.error) if isinstance(answer, TaskDied) else answer
