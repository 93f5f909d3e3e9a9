"""What the benchmarks share: the answer they give, the data they run on, and runs of a recipe in this process."""

from __future__ import annotations

import io
import os
import resource
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from curate.core.contracts import Runner
from curate.core.platform import cores
from curate.driver.progress import Outcome, Progress, Quiet
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning.plan import Plan
from curate.sources.listing import list_shards
from curate.storage.backend import storage
from curate.storage.store import Store

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "data" / "demo"
SHARED = ROOT.parent / "shared"
CORES = cores()
WORKERS = min(2, CORES)


@dataclass(frozen=True)
class Figure:
    """One number beside its target; `more` holds what explains it."""

    name: str
    value: float
    unit: str
    target: str
    holds: bool
    more: dict[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return the figure as JSON values."""
        return {**asdict(self), "value": float(f"{self.value:.4g}"), "cores": CORES}


def at_least(name: str, value: float, unit: str, bound: float, more: dict[str, Any] | None = None) -> Figure:
    """Return a figure that must reach a bound."""
    return Figure(name, value, unit, f">= {bound:g}", value >= bound, more or {})


def at_most(name: str, value: float, unit: str, bound: float, more: dict[str, Any] | None = None) -> Figure:
    """Return a figure that must not pass a bound."""
    return Figure(name, value, unit, f"<= {bound:g}", value <= bound, more or {})


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long one call takes, in seconds of wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def rounded(values: Sequence[float]) -> list[float]:
    """Return values as they are printed."""
    return [round(value, 3) for value in values]


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder, with the signatures of evaluation sets in it too; gone afterwards."""
    before = os.environ.get("CURATE_CACHE")
    with TemporaryDirectory(prefix="curate-bench-") as name:
        os.environ["CURATE_CACHE"] = str(Path(name) / "cache")
        try:
            yield Path(name)
        finally:
            del os.environ["CURATE_CACHE"]
            if before is not None:
                os.environ["CURATE_CACHE"] = before


def photos() -> list[bytes]:
    """Return some JPEGs: of ImageNet's sample, or the demo's where ../shared is absent."""
    folder = SHARED / "data" / "imagenet_sample"
    if folder.is_dir():
        return [path.read_bytes() for path in sorted(folder.glob("*.JPEG"))]
    found = [path.read_bytes() for path in sorted((DEMO / "eval").glob("*.jpg"))]
    for path in sorted((DEMO / "pairs").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".jpg")]
            found += [file.read() for file in members if file is not None]
    return [data for data in found if decodes(data)]


def decodes(data: bytes) -> bool:
    """Return whether a JPEG decodes without a warning."""
    from curate.images.jpeg import grey_scale_decode

    try:
        grey_scale_decode(data)
    except ValueError:
        return False
    return True


def write_tar(path: Path, pairs: Sequence[tuple[str, bytes, str]]) -> Path:
    """Write (key, JPEG, text) as a WebDataset tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image, text in pairs:
            for name, body in ((f"{key}.jpg", image), (f"{key}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return path


def plan_of(text: str, folder: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a recipe given as YAML, its evaluation sets signed."""
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    plan, _ = resolve(planning.plan(recipes.load(str(file), overrides)), Path(os.environ["CURATE_CACHE"]))
    return plan


def run_of(plan: Plan, inputs: Sequence[Path], out: Path, runner: Runner, progress: Progress | None = None) -> Run:
    """Return the run of a plan over inputs into `out`."""
    shards = list_shards([str(path) for path in inputs], {})
    return Run(plan, shards, Store(storage(out)), runner, progress=progress or Quiet())


def share(outcome: Outcome) -> dict[str, float]:
    """Return the core-seconds of a run's workers by activity, the largest first."""
    ordered = sorted(outcome.seconds.items(), key=lambda item: -item[1])
    return {name: round(value, 3) for name, value in ordered}


class Phases:
    """Progress of a run that keeps the wall-clock seconds of each of its steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since = "start", time.perf_counter()

    def start(self, name: str, total: int) -> None:
        """Note that a step begins, so the one before is over."""
        now = time.perf_counter()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now

    def advance(self, records: int) -> None:
        """Take no notice."""

    def warn(self, text: str) -> None:
        """Take no notice."""
