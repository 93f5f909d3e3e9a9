"""What the tests of whole runs share: small tars, a run in this process or as the command, and what a run wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate.core.contracts import Needs, Runner, Stage, TaskDied
from curate.core.counting import Counting
from curate.driver.options import RunOptions
from curate.driver.progress import Outcome, Progress, Quiet
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.passes.fetch import Download
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.runners.local.counts import duckdb_counting
from curate.sources.listing import list_shards
from curate.storage import file_lists
from curate.storage.backend import storage
from curate.storage.lease import BEAT_SECONDS
from curate.storage.marks import File
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store

T = TypeVar("T")
R = TypeVar("R")

RECIPE = """
filters:
  image_reuse: {max_texts: 30, record_from: 2}
  caption_frequency: {max_images: 10, record_from: 2}
  common_ngrams: {min_count: 1}
  caption_words: {min_words: 3, max_words: 20}
  min_side: {larger_than: 200}
  aspect_ratio: {below: 3.0}
  duplicate_pair:
  unreadable:
  eval_overlap: {method: hash}
output: {samples_per_shard: 25, block_shards: 2}
"""
"""The demo's recipe without models: the evaluation sets are compared by perceptual hash."""

KEEP_ALL = """
filters:
  unreadable:
output: {samples_per_shard: 4, block_shards: 2}
"""


def jpeg(seed: int, size: tuple[int, int] = (256, 240), comment: bytes = b"") -> bytes:
    """Return a JPEG that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85, comment=comment)
    return file.getvalue()


def picture(seed: int, form: str, size: tuple[int, int] = (256, 240)) -> bytes:
    """Return an image of any format that Pillow writes."""
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(seed, size))).save(file, form)
    return file.getvalue()


def make_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of (name, bytes), in order, with a fixed time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def pairs(seeds: Iterable[int], comments: Mapping[int, bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the members of plain pairs, one a seed."""
    for seed in seeds:
        yield f"{seed:05d}.jpg", jpeg(seed, comment=(comments or {}).get(seed, b""))
        yield f"{seed:05d}.txt", f"a picture of thing number {seed}".encode()


@dataclass(frozen=True)
class InProcess:
    """The simplest runner: this process, one item after the other."""

    def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
        for item in items:
            try:
                yield task(item)
            except Exception as error:  # noqa: BLE001 - a runner reports whatever a task raises
                yield TaskDied(item, f"{type(error).__name__}: {error}", error=type(error).__name__)

    def counting(self, scratch: str, memory: int) -> AbstractContextManager[Counting]:
        return duckdb_counting(scratch, memory)


@dataclass(frozen=True)
class Setup:
    """A recipe's text, its inputs and overrides; `stages` replaces stages of the plan by name."""

    recipe: str
    inputs: Sequence[Path]
    overrides: tuple[str, ...] = ()
    stages: Callable[[planning.Plan], dict[str, Stage]] = lambda plan: {}
    samples_per_shard: int | None = None
    row_seconds: float = 30.0
    max_failed_shards: int | None = None
    beat: float = BEAT_SECONDS  # of the lease
    download: Download | None = None  # instead of the web
    retry_failed: bool = False
    counts_of: Sequence[Path] = ()
    into: Literal["same", "replace", "add"] = "replace"  # a finished output of something else
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_job(
    setup: Setup, out: Path, runner: Runner | None = None, progress: Progress | None = None, at: str | None = None,
    facts: Path | str | None = None,
) -> Outcome:  # fmt: skip
    """Run a recipe in this process (or with `runner`) into `out`, or at a URL; facts go into a store, if one is given."""
    file = out.parent / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(setup.recipe)
    recipe = recipes.load(str(file), setup.overrides)
    if setup.samples_per_shard:
        recipe = dataclasses.replace(recipe, output=dataclasses.replace(recipe.output, samples_per_shard=setup.samples_per_shard))
    shards = list_shards([str(path) for path in (*setup.inputs, *setup.counts_of)], setup.columns)
    planned = planning.plan(planning.fetching(recipe) if shards.on_the_web.any() else recipe)
    plan, _ = resolve(planned, Path(os.environ["CURATE_CACHE"]))
    plan = plan.with_stages(setup.stages(plan))
    counted_only = len(shards) - len(list_shards([str(path) for path in setup.inputs], setup.columns)) if setup.counts_of else 0
    options = RunOptions(
        row_seconds=setup.row_seconds,
        max_failed_shards=setup.max_failed_shards,
        download=setup.download,
        retry_failed=setup.retry_failed,
        counted_only=counted_only,
        into=setup.into,
    )
    store = Store(with_facts(storage(at or out), None if facts is None else str(facts)), beat=setup.beat)
    return Run(plan, shards, store, runner or InProcess(), options, progress or Quiet()).run()


def command(*arguments: object) -> list[str]:
    """Return the command line of `curate` in this environment."""
    return [str(Path(sys.executable).with_name("curate")), *map(str, arguments)]


def curate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


def complaints(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command says on standard error, but for the progress that it tells every 30 s: a machine may be slow."""
    return _without_progress(done.stderr)


def _without_progress(told: str) -> str:
    lines = told.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"curate: [a-z ]+: [\d,]+ of [\d,]+ ", line))


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_for(process: subprocess.Popen[str], out: Path, pattern: str, count: int = 1) -> bool:
    """Wait until `count` files of OUT match; False when the process ended before."""
    deadline = time.monotonic() + 120
    while len(list(out.glob(pattern))) < count:
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            assert time.monotonic() < deadline, f"no {pattern} in two minutes"
        else:
            return False
    return True


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the command and return what it wrote to standard error, but for its progress (see `complaints`)."""
    _, told = process.communicate(timeout=300)
    return _without_progress(told)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the command and all of its workers, as a machine that goes down would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def written(out: Path) -> dict[str, str]:
    """Return the sha256 of every file that must be the same whatever happened."""
    names = [out / "manifest.json"]
    for folder in ("manifest", "shards", "index", "decisions", "thumbs"):
        names += (out / folder).glob("*")
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(names)}


def stamps(folder: Path, pattern: str = "**/*") -> dict[str, tuple[int, int]]:
    """Return inode and modification time of every file but the lock."""
    found = [path for path in folder.glob(pattern) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def leftovers(out: Path) -> list[str]:
    """Return what a finished run must not leave: hidden files but the lock, work/, facts that no mark names."""
    found = [path for path in out.rglob(".*") if path.name != ".lock"]
    found += out.glob("work")
    named = {name for mark in out.glob("facts/*/*.json") for name in json.loads(mark.read_text()).get("files", {})}
    found += [path for path in out.glob("facts/*/*.parquet") if str(path.relative_to(out)) not in named]
    return sorted(str(path.relative_to(out)) for path in found)


def decisions(out: Path) -> list[dict[str, Any]]:
    """Return all decisions, in order."""
    files = sorted((out / "decisions").glob("*.parquet"))
    rows: list[dict[str, Any]] = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    return rows


def listed(out: Path, folder: str) -> dict[str, File]:
    """Return what the manifest's list of a folder has of each file, by name."""
    return dict(file_lists.listed(storage(out), folder))


def manifest(out: Path) -> dict[str, Any]:
    """Return the manifest."""
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found
