"""The job: scan every shard, merge the corpus counts, judge every shard, pack every block, and say what was done.

Every step is a task over shards with a commit mark, so a killed job goes on at the first shard without one; a finished
one does nothing. The driver streams its shards and holds nothing of their content.

With GPUs judging is two passes: every core prepares what comes before the captioner and the matcher, then a worker for
each GPU judges the shards on which these have not said everything yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from curate.core import watchdog
from curate.core.contracts import Needs, Report, Runner, Shard, TaskDied, shard_name
from curate.core.errors import DiskFull, OutOfDeviceMemory, OutputError
from curate.core.shards import Shards
from curate.core.version import __version__
from curate.counts.lookup import Lookup
from curate.counts.merge import Engine, Scanned, merge
from curate.driver.attempts import _ONE_CORE, ATTEMPTS, T, _is_full, _lost, _without
from curate.driver.manifest import RunSummary, attrition, checked, described
from curate.driver.progress import Outcome, Progress, Quiet
from curate.driver.resolve import _published
from curate.fetch.image_log import lost
from curate.fetch.preflight import check_ready
from curate.passes.fetch import Download, Fetch
from curate.passes.isolate import FindCrashes
from curate.passes.judge import ASKS, Judge, Prepare
from curate.passes.pack import Block, Pack, mark_of, packed
from curate.passes.sampler import per_shard
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.planning.plugins import carried
from curate.storage.backend import Found
from curate.storage.store import Store

_HALVED = "halved.json"
"""In OUT: the batches that a run went on with when a GPU had been too small, and for which stages that holds."""


Index = npt.NDArray[np.int64]


@dataclass
class Job:
    """One run of a recipe over an input into OUT. The plan's stages must be resolved (evaluation sets signed)."""

    plan: Plan
    shards: Shards
    store: Store
    runner: Runner
    progress: Progress = field(default_factory=Quiet)
    memory: int = 1_000_000_000  # bytes for the merge of corpus counts
    warnings: Sequence[str] = ()
    max_failed_shards: int | None = None
    row_seconds: float = watchdog.ROW_SECONDS
    gpus: int = 0  # with them captioner and matcher run in a pass of their own, one worker for each
    gpu_share: float = 1  # of a GPU that one worker takes
    threads: int = 1  # that decode pictures beside a GPU
    counted_only: int = 0  # of the shards, the last ones: they have a part in the corpus counts and in nothing else
    retry_failed: bool = False  # ask again for images that could not be fetched
    download: Download | None = None  # who fetches; default: curate.fetch.fetch
    shared: bool = False  # workers are on other machines: they see OUT, and nothing else that this machine has
    _lookups: dict[str, Lookup] = field(default_factory=dict, init=False)
    _halved: dict[str, int] = field(default_factory=dict, init=False)
    _full: bool = field(default=False, init=False)  # a GPU was too small: no more items are given out

    def run(self) -> Outcome:
        """Do what is missing. Raises ModelError for a model that cannot be had, before anything is done.

        Raises OutputError when another run holds OUT or too many shards failed, InputError without a contact for sites.
        """
        outcome = Outcome(self.store.storage.root)
        checked(self.plan)
        if self.plan.fetches:
            check_ready(self.plan.recipe.policy)
        with self.store.locked() as self.store:
            if self.store.storage.size("extract.json") is not None:
                raise OutputError(f"{self.store.storage.root} is an output of curate extract; choose another --out")
            self.plan = _published(self.plan, self.store) if self.shared else self.plan
            self._recall_halved()
            key = self.key()
            manifest = self.store.read_json("manifest.json")
            again = self.retry_failed and self.plan.fetches
            same = manifest is not None and manifest.get("run") == self._packed_as(key)
            if manifest is not None and same and not (manifest["failed_shards"] or again):
                self._already(manifest, outcome)
                return outcome
            self.store.clear_outputs(key)
            self.store.sweep()
            self._conclude(self.steps(outcome), outcome)
            self.store.sweep()
        return outcome

    def steps(self, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """Scan, merge, fetch, judge and pack what is missing; give the marks of all blocks, in order, read as they are taken."""
        self._lookups = self._scan(outcome)
        if self.plan.fetches:
            self._fetch(outcome)
        return self._pack(self._judge(outcome), outcome)

    def key(self) -> str:
        """Return what names the verdicts of this run: recipe, facts, input and code; how they are packed has no part in it."""
        input_ = [self.shards.digest, *([self.counted_only] if self.counted_only else [])]
        described = json.dumps([__version__, self.plan.decisive(), *input_], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(described.encode())

    def _packed_as(self, key: str) -> str:
        output = json.dumps(self.plan.recipe.resolved()["output"], sort_keys=True)
        return f"{key}-{xxhash.xxh3_64_hexdigest(output.encode())}"

    def _already(self, manifest: dict[str, Any], outcome: Outcome) -> None:
        """Say what a finished run had done; a kill may have come between its manifest and its report."""
        from curate.report import write_report

        outcome.state = "nothing to do"
        outcome.records, outcome.kept, outcome.partial = manifest["records"], manifest["kept"], manifest["partial_shards"]
        outcome.texts = manifest["texts"]
        if self.store.storage.size("report.html") is None:
            self.store.sweep()
            write_report(self.store.storage)

    def _scan(self, outcome: Outcome) -> dict[str, Lookup]:
        task = Scan(self.store, self.plan.base_key, self.plan.header, self.plan.text, self.plan.counts)
        done = np.ones(len(self.shards), np.bool_)
        for key in task.provides():
            done &= self.store.committed(key).holds(self.shards.fingerprints)
        missing = np.flatnonzero(~done)
        self.progress.start("scan", len(missing))
        self._over(task, missing, outcome)
        if not self.plan.counts:
            return {}
        scanned = np.setdiff1d(np.arange(len(self.shards)), _index_of(map(str, outcome.gone)))
        self.progress.start("merge corpus counts", 0)
        merging = Scanned(self.shards.fingerprints[scanned], scanned)
        return merge(self.store, self.plan.counts, merging, Engine(self.runner, self.memory))

    def _but(self, gone: set[int]) -> Index:
        """Return the indexes of the shards that are judged, but those."""
        left = np.ones(len(self.shards), np.bool_)
        left[list(gone)] = False
        left[len(self.shards) - self.counted_only :] = False
        return np.flatnonzero(left)

    def _over(self, task: Callable[[Shard], Report], places: Index, outcome: Outcome, needs: Needs = _ONE_CORE) -> None:
        """Run a task over the shards at some places."""
        for _ in self._tried(task, self.shards.at(places), outcome, needs):
            pass

    def _fetch(self, outcome: Outcome) -> None:
        """Fetch the images that are asked for, of the shards that name theirs by url."""
        judge = self._task()
        task = Fetch(judge, self.plan.recipe.policy, self.retry_failed, self.download)
        web = np.intersect1d(np.flatnonzero(self.shards.on_the_web), self._but(outcome.gone))
        if self.retry_failed:
            self._again_those_that_failed(task, web)
        self._take_back(task, lost(self.store, self.shards.at(web)))
        missing = np.setdiff1d(web, _index_of(self.store.marked(judge.run, task.marks)))
        self.progress.start("fetch", len(missing))
        self._over(task, missing, outcome)

    def _again_those_that_failed(self, task: Fetch, web: Index) -> None:
        """Take back what was decided of shards with images that could not be fetched, before these are asked for again."""
        run = task.judge.run
        found = self.store.marks(run, (f"{task.marks}/{index:06d}" for index in web))
        failed = [index for index, (_, mark) in zip(web.tolist(), found, strict=True) if mark is not None and mark["failed"]]
        self._take_back(task, failed)

    def _take_back(self, task: Fetch, shards: Sequence[int]) -> None:
        """Remove the marks of shards whose images are asked for again, and what was decided of them first."""
        if shards:
            self._forget(task.judge, shards)
            self.store.unmark(task.judge.run, [f"{task.marks}/{index:06d}" for index in shards])

    def _forget(self, judge: Judge, shards: Iterable[int]) -> None:
        """Remove the marks of shards that are judged anew, and of their blocks first."""
        indexes, size = list(shards), self.plan.recipe.output.block_shards
        prepared = Prepare(judge).marks
        self.store.unmark(judge.run, dict.fromkeys(mark_of(index // size) for index in indexes))
        for folder, end in ((judge.marks, ""), (prepared, ""), (prepared, ASKS)):
            self.store.unmark(judge.run, [f"{folder}/{index:06d}{end}" for index in indexes])

    def _task(self) -> Judge:
        samples = per_shard(len(self.shards))
        return Judge(self.store, self.plan, self.plan.base_key, self.key(), self._lookups, samples, self.row_seconds)

    def _judge(self, outcome: Outcome) -> Judge:
        """Judge what is missing; where a GPU is too small for the batch, all of it again with half of that."""
        try:
            return self._judged(outcome)
        except OutOfDeviceMemory:
            half = {name: max(1, batch // 2) for name, batch in self.plan.batches().items()}
            self.store.write_json(_HALVED, {"stages": self._batched(), "batch": half})
            self._recall_halved()
            self.store.clear_outputs(self.key())
            return self._judged(outcome)

    def _recall_halved(self) -> None:
        """Go on with half the batch where an earlier attempt at the same captions and scores had to: for all shards or none."""
        found = self.store.read_json(_HALVED)
        if found is not None and found["stages"] == self._batched():
            self._halved, self._full = found["batch"], False
            self.plan = self.plan.with_batches(self._halved)
            self.progress.warn(_told(self._halved))

    def _batched(self) -> dict[str, str]:
        return {stage.name: self.plan.keys[stage.name] for stage in self.plan.stages() if stage.name in self.plan.batches()}

    def _judged(self, outcome: Outcome) -> Judge:
        task = self._task()
        missing = np.setdiff1d(self._but(outcome.gone), self._standing(task))
        asking = self._prepare(task, missing, outcome) if self.gpus and self.plan.on_gpu else np.empty(0, np.int64)
        rest = np.setdiff1d(np.setdiff1d(missing, asking), _index_of(map(str, outcome.gone)))
        self.progress.start("judge", len(rest))
        self._over(task, rest, outcome, Needs(models=any(self.plan.models())))
        if len(asking):
            threads = max(1, int(self.threads * self.gpu_share))
            needs = Needs(threads, gpus=self.gpu_share, models=True)
            self.progress.start("judge with models", len(asking))
            self._over(replace(task, threads=threads), asking, outcome, needs)
        return task

    def _standing(self, task: Judge) -> Index:
        """Return the indexes of the shards whose verdicts stand; marks of lost ones and of their blocks are removed."""
        for kind in self.store.storage.folders(f"marks/{task.run}"):
            if kind.startswith("judge-") and kind != task.marks:  # made with other counts; their decisions are overwritten now
                self.store.storage.remove_folder(f"marks/{task.run}/{kind}")
        there = _index_of(found.name.removesuffix(".parquet") for found in self._files("decisions"))
        marked = _index_of(self.store.marked(task.run, task.marks))
        if len(lost := np.setdiff1d(marked, there)):
            self._forget(task, lost.tolist())
        return np.intersect1d(marked, there)

    def _files(self, folder: str) -> Iterator[Found]:
        return (found for found in self.store.storage.listing(folder) if not found.name.startswith("."))

    def _prepare(self, task: Judge, missing: Index, outcome: Outcome) -> Index:
        """Compute on all cores what comes before the models; return the indexes of the shards that lack what these say."""
        prepare = Prepare(task)
        marked = list(self.store.marked(task.run, prepare.marks))
        done = _index_of(name.removesuffix(ASKS) for name in marked)
        unprepared = np.setdiff1d(missing, done)
        self.progress.start("prepare", len(unprepared))
        self._over(prepare, unprepared, outcome)
        asks = (name.removesuffix(ASKS) for name in self.store.marked(task.run, prepare.marks) if name.endswith(ASKS))
        return np.setdiff1d(np.intersect1d(missing, _index_of(asks)), _index_of(map(str, outcome.gone)))

    def _pack(self, judge: Judge, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """Pack what is missing and give the marks of all blocks, in order."""
        task, blocks = Pack(self.store, self.plan, judge.base, judge.run, judge.marks), self._blocks(outcome.gone)
        stand = {block for block, _ in self._standing_blocks(task, blocks)}
        missing = [index for index in blocks if index not in stand]
        self.progress.start("pack", len(missing))
        for _ in self._tried(task, (Block(index, tuple(self.shards.at(blocks[index]))) for index in missing), outcome):
            pass
        return (mark for _, mark in self._standing_blocks(task, self._blocks(outcome.gone)))

    def _blocks(self, gone: set[int]) -> dict[int, Index]:
        """Return the indexes of the shards of each block."""
        places = self._but(gone)
        numbers = places // self.plan.recipe.output.block_shards
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        return {int(some[0] // self.plan.recipe.output.block_shards): some for some in np.split(places, cuts) if len(some)}

    def _standing_blocks(self, task: Pack, blocks: dict[int, Index]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the blocks that are packed from exactly their shards, with their marks."""
        made_with, listed = task.made_with(), list(blocks)
        found = self.store.marks(task.run, map(mark_of, listed))
        for block, (_, mark) in zip(listed, found, strict=True):
            if mark is not None and packed(mark, made_with, blocks[block]):
                yield block, mark

    def _tried(
        self, task: Callable[[T], Report], items: Iterable[T], outcome: Outcome, needs: Needs = _ONE_CORE
    ) -> Iterator[Report]:
        """Run a task over items, again for those whose worker died, and note the time and the failures.

        Raises OutOfDeviceMemory, once in a run, when nothing of the task is under way any more.
        """
        attempts: dict[int, int] = {}
        waiting: Iterable[T] | None = items
        while waiting:
            deaths: list[TaskDied] = []
            brought = carried(task, self.plan.recipe.plugins)
            for answer in self.runner.map(brought, takewhile(lambda _: not self._full, waiting), needs):
                if isinstance(answer, TaskDied):
                    self._full = self._full or (_is_full(answer) and self._may_halve())
                    if not (self._full and _is_full(answer)):
                        deaths.append(answer)
                    continue
                for name, seconds in answer.seconds.items():
                    outcome.seconds[name] = outcome.seconds.get(name, 0.0) + seconds
                self.progress.advance(answer.rows)
                yield answer
            if self._full:
                raise OutOfDeviceMemory
            waiting = self._again(deaths, attempts, outcome)

    def _again(self, deaths: list[TaskDied], attempts: dict[int, int], outcome: Outcome) -> list[Any]:
        """Return what is tried again of the items that failed; a shard without the images that killed its worker is a new one."""
        again: list[Any] = []
        cleared = self._find_crashes([death.item for death in deaths if death.error is None and isinstance(death.item, Shard)])
        for death in deaths:
            if isinstance(death.item, Shard) and death.item.index in cleared:
                again.append(death.item)
            else:
                self._died(death, attempts, again, outcome)
        return again

    def _find_crashes(self, shards: list[Shard]) -> set[int]:
        """Look through shards whose worker died; return the indexes of those in which new crashing_rows were found."""
        from curate.models.checks import check

        if not shards:
            return set()
        stages = self.plan.stages()
        decode = self.plan.decode
        asked = [one for stage in stages if "pictures" in stage.reads for one in stage.models()]
        sides = {side for kind, spec in asked if (side := check(kind, spec).side)}
        task = FindCrashes(self.store, self.plan.base_key, decode, tuple(sorted(sides)), self.row_seconds)
        answers = self.runner.map(task, shards, _ONE_CORE)
        return {answer.shard for answer in answers if not isinstance(answer, TaskDied) and answer.counts["crashing_rows"]}

    def _may_halve(self) -> bool:
        return not self._halved and any(batch > 1 for batch in self.plan.batches().values())

    def _died(self, death: TaskDied, attempts: dict[int, int], again: list[Any], outcome: Outcome) -> None:
        if death.error == DiskFull.__name__:  # as it would be for every other shard
            raise OutputError(f"{death.reason.partition(': ')[2]}; make room and run the same command again")
        item: Shard | Block = death.item
        attempts[item.index] = attempts.get(item.index, 0) + 1
        if attempts[item.index] < ATTEMPTS and not _is_full(death):
            again.append(item)
            return
        shards = [item] if isinstance(item, Shard) else _lost(self.store, item)
        reason = f"{death.reason}; {_smaller(self.plan.batches())}" if _is_full(death) else death.reason
        outcome.failed += [{"shard": shard_name(shard), "reason": reason} for shard in shards]
        outcome.gone |= {shard.index for shard in shards}
        if isinstance(item, Block) and (rest := _without(item, outcome.gone)).shards:
            attempts[item.index] = 0
            again.append(rest)
        if self.max_failed_shards is not None and len(outcome.failed) > self.max_failed_shards:
            raise OutputError(f"{len(outcome.failed)} shards failed, more than --max-failed-shards; the last: {reason}")

    def _conclude(self, marks: Iterable[dict[str, Any]], outcome: Outcome) -> None:
        """Write sizes.json, then the manifest (its presence means done), then the report."""
        from curate.report import write_report

        said = RunSummary()
        for mark in marks:
            said.add(mark)
        outcome.partial = [{"shard": shard_name(self.shards[at]), "reason": reason} for at, reason in said.broken.items()]
        outcome.records, outcome.kept, outcome.texts = (said.tally[name] for name in ("records", "kept", "texts"))
        self._remove_leftovers(said)
        self.store.write_json("sizes.json", {name: tar["samples"] for name, tar in said.tars.items()})
        warnings = [*self.warnings, *([_told(self._halved)] if self._halved else [])]
        about = described(self.plan, self.shards, self._lookups, warnings)
        about["input"]["counted_only"] = self.counted_only
        manifest = {"run": self._packed_as(self.key()), **about, **attrition(self.plan, said.tally)}
        manifest |= {"halved_batch": self._halved} if self._halved else {}
        manifest |= {"shards": said.tars, "index": said.index, "decisions": said.decisions}
        manifest["failed_shards"], manifest["partial_shards"] = outcome.failed, outcome.partial
        self.store.write_json("manifest.json", manifest)
        self.progress.start("report", 0)
        write_report(self.store.storage)

    def _remove_leftovers(self, said: RunSummary) -> None:
        """Remove tars and decisions that no mark names: of a shard that has failed since, or of a block cut otherwise."""
        folders: dict[str, Container[str]] = {"shards": said.tars, "index": said.index, "decisions": said.decisions}
        for folder, wanted in {**folders, "thumbs": said.decisions}.items():
            found = self.store.storage.listing(folder)
            self.store.storage.remove([f"{folder}/{one.name}" for one in found if one.name not in wanted])


_SETTINGS = {"caption": "captions.batch", "match": "caption_match.batch"}
"""Where a recipe has the batch of a stage."""


def _told(halved: dict[str, int]) -> str:
    sizes = ", ".join(f"{_SETTINGS[name]}={batch}" for name, batch in halved.items())
    return f"a batch did not fit the GPU's memory: all of the run has half of it, {sizes}"


def _smaller(batches: dict[str, int]) -> str:
    wanted = " and ".join(f"{_SETTINGS[name]}={max(1, batch // 2)}" for name, batch in batches.items())
    return f"set {wanted}" if any(batch > 1 for batch in batches.values()) else "its memory is too small for this model"


def _index_of(names: Iterable[str]) -> Index:
    return np.fromiter(map(int, names), np.int64)
