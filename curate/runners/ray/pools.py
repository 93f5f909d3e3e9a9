"""Where items run on a Ray cluster: as tasks, or in actors that keep their models. Ray places them; nothing is retried here."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import exceptions

from curate.core.contracts import Needs, item_name
from curate.core.errors import RunnerError
from curate.runners.worker import attempt

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30.0  # before a warning that no worker has started yet
_STARTS = 3  # actors in a row that fail to start, before giving up
_LOOK_SECONDS = 5.0  # between looks at how large the cluster is


@dataclass(frozen=True)
class Task:
    """A task in the object store, and what it is called."""

    reference: Any
    name: str

    def of(self, item: Any) -> str:
        """Return what the dashboard, `ray list tasks` and Ray's logs call the work on an item: "scan: 00000.tar"."""
        return f"{self.name}: {item_name(item)}"


class Pool(Protocol):
    """Where items run."""

    def start(self, task: Task, item: Any) -> Any | None:
        """Start an item and return a reference to its answer; None while there is no room."""

    def wait(self, under_way: list[Any]) -> list[Any]:
        """Wait until something has happened, and return the references whose answers are ready."""

    def ended(self, reference: Any, *, alive: bool) -> None:
        """Note that an answer was taken, and whether its worker is still alive."""


class Tasks:
    """Ray tasks. Nothing is reserved between them: Ray itself ends idle workers."""

    def __init__(self, needs: Needs, most: int | None) -> None:
        self._run = ray.remote(num_cpus=needs.cpus, max_retries=0)(attempt)
        self._needs, self._most = needs, most
        self._room, self._looked = 0, 0.0
        self._count = 0

    def start(self, task: Task, item: Any) -> Any | None:
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            cores = ray.cluster_resources().get("CPU", 1)
            self._room, self._looked = self._most or max(2, int(2 * cores / max(self._needs.cpus, 1e-3))), now
        if self._count >= self._room:
            return None
        self._count += 1
        return self._run.options(name=task.of(item)).remote(task.reference, item)

    def wait(self, under_way: list[Any]) -> list[Any]:
        return _ready(under_way)

    def ended(self, reference: Any, *, alive: bool) -> None:
        self._count -= 1


class _Worker:
    """An actor: it keeps its process, and with it the models that its first item loaded."""

    def ready(self) -> None:
        """Return as soon as the actor runs."""

    def run(self, task: Any, item: Any) -> Any:
        """Run the task on one item."""
        return attempt(task, item)


@dataclass(frozen=True)
class Bounds:
    """How many workers a pool may have (None: as many as the cluster has room for), and with how many it starts."""

    most: int | None = None
    least: int = 1


class Actors:
    """Actors with one item each; while items wait, more are requested, up to twice as many as are running."""

    def __init__(self, needs: Needs, bounds: Bounds) -> None:
        self._make = ray.remote(_Worker).options(num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=0)
        self._needs, self._bounds = needs, bounds
        self._warned = False
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._failed = 0

    def start(self, task: Task, item: Any) -> Any | None:
        if not self._idle:
            running = len(self._busy) + len(self._starting)
            wanted = len(self._starting) <= len(self._busy) or running < self._bounds.least
            if wanted and (self._bounds.most is None or running < self._bounds.most):
                actor = self._make.remote()
                self._starting[actor.ready.remote()] = actor
            return None
        actor = self._idle.pop()
        reference = actor.run.options(name=task.of(item)).remote(task.reference, item)
        self._busy[reference] = actor
        return reference

    def wait(self, under_way: list[Any]) -> list[Any]:
        if not under_way and not self._warned and not ray.wait(list(self._starting), timeout=_PATIENCE_SECONDS)[0]:
            self._warned = True
            wanted = f"{self._needs.cpus:g} CPU and {self._needs.gpus:g} GPU"
            _log.warning("curate: still waiting for a worker with %s: does the cluster have a node for it?", wanted)
        ready = _ready([*under_way, *self._starting])
        for reference in [one for one in ready if one in self._starting]:
            actor = self._starting.pop(reference)
            try:
                ray.get(reference)
            except exceptions.RayError as error:
                self._failed += 1
                if self._failed >= _STARTS:
                    raise RunnerError(f"workers with models do not start: {str(error).strip().splitlines()[0]}") from None
            else:
                self._failed = 0
                self._idle.append(actor)
        return [one for one in ready if one in self._busy]

    def ended(self, reference: Any, *, alive: bool) -> None:
        actor = self._busy.pop(reference)
        if alive:
            self._idle.append(actor)

    def close(self) -> None:
        """End them all."""
        for actor in [*self._starting.values(), *self._busy.values(), *self._idle]:
            ray.kill(actor)


def _ready(references: list[Any]) -> list[Any]:
    """Wait for one, then take all that are ready: the cost of a wait grows with the number of its references."""
    ready, _ = ray.wait(references, num_returns=1)
    if len(references) > 1:
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
    return list(ready)
