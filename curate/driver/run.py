"""One run of a recipe: scan every shard, merge corpus counts, fetch, judge every shard, pack every block, write the manifest.

Every step is a task per shard with a commit mark, so a killed run resumes at the first shard without one, and a finished run has
nothing to do. The driver streams its shards and never holds their content.

With GPUs, judging takes two passes: all cores compute what the captioner and the matcher need, then one worker per GPU judges the
shards that have rows for these models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from curate.core.contracts import Needs, Runner, shard_name
from curate.core.errors import OutOfDeviceMemory, OutputError
from curate.core.shards import Shards
from curate.core.version import __version__
from curate.counts.lookup import Lookup, load
from curate.counts.merge import Engine, Scanned, merge
from curate.driver import batches, identity
from curate.driver.attempts import Attempts, CrashSearch
from curate.driver.identity import Identity
from curate.driver.manifest import attrition, checked, described, write_lists
from curate.driver.options import RunOptions
from curate.driver.packing import Packing
from curate.driver.progress import Outcome, Progress, Quiet, begin
from curate.driver.removal import Removal
from curate.driver.resolve import published
from curate.driver.resume import Index, Resume, both, index_of, without
from curate.fetch.preflight import check_ready
from curate.passes import removed
from curate.passes.fetch import Fetch
from curate.passes.judge import Judge, Prepare
from curate.passes.pack import Pack
from curate.passes.sampler import FEW_SHARDS, fewer, per_shard, write_thumbs
from curate.passes.scan import Scan
from curate.planning.plan import Pass, Plan
from curate.storage.manifest import MERGE
from curate.storage.marks import Mark
from curate.storage.shared_facts import enter
from curate.storage.store import Store

FORMAT = 5
"""The format of marks and manifest. An OUT with another one is judged again."""


@dataclass(frozen=True)
class Packed:
    """A run whose blocks are all packed: the run, maybe with halved batches, its counts, and the blocks' marks.

    The marks come in the order of the blocks and are read as they are taken.
    """

    run: Run
    lookups: dict[str, Lookup]
    marks: Iterator[Mark]


@dataclass(frozen=True)
class Run:
    """One run of a recipe over an input into OUT. The plan must be resolved (see curate.driver.resolve)."""

    plan: Plan
    shards: Shards
    store: Store
    runner: Runner
    options: RunOptions = field(default_factory=RunOptions)
    progress: Progress = field(default_factory=Quiet)
    halved: dict[str, int] = field(default_factory=dict)  # batches by stage, after a GPU was too small for the recipe's
    marks: str | None = None  # the folder of its marks, where OUT was begun with less input than it has now

    def run(self) -> Outcome:
        """Do what is missing.

        Raises ModelError if a model is not available and InputError without a contact address for fetching, both before any
        work; OutputError if another run holds OUT, a disk is full or too many shards failed.
        """
        checked(self.plan)
        if self.plan.fetches:
            check_ready(self.plan.recipe.policy)
        with self.store.locked() as store:
            if store.storage.size("extract.json") is not None:
                raise OutputError(f"{store.storage.root} is an output of curate extract; choose another --out")
            if store.storage.size(MERGE) is not None:
                raise OutputError(f"{store.storage.root} is merged of other outputs, not of one input; choose another --out")
            Removal(store, self.runner, self.progress).complete()
            plan = published(self.plan, store) if self.options.shared else self.plan
            return replace(self, plan=plan, store=store).with_recorded_batches()._entered()._complete()

    def _entered(self) -> Run:
        """Return the run as it goes on in OUT: with the input that OUT has already, if it adds to that.

        Raises OutputError where OUT is a finished output of something else, and the run is not told what to do with that.
        """
        was, into = identity.held(self.store), self.options.into
        if was is None:
            return self
        if into == "add":
            return self._adding(was)
        if was.made_of == self._made_of():
            return replace(self, marks=was.run)
        if was.finished and into != "replace":
            raise identity.refusal(self.store, was, self._identity(), self.shards)
        if was.finished:
            self.progress.warn(f"replacing {self.store.storage.root}: {identity.goes(self.store)} are removed")
        return self

    def _adding(self, was: Identity) -> Run:
        if differs := list(identity.differences(was, self._identity())):
            reasons = "; ".join(differs)
            raise OutputError(f"{self.store.storage.root} was made otherwise, and --add only adds input: {reasons}")
        shards, counted_only = identity.with_more(self.store, was, self.shards, self.options.counted_only)
        return replace(self, shards=shards, options=replace(self.options, counted_only=counted_only), marks=was.run)

    def _identity(self) -> Identity:
        recipe = json.loads(json.dumps(self.plan.recipe.resolved()))  # as it is read back: lists, not tuples
        made_of, digest = self._made_of(), self.shards.digest
        providers = [*self._scanning().provides(), *self.plan.keys.values()]
        only = self.options.counted_only
        return Identity(self.key(), made_of, recipe, self.plan.keys, __version__, digest, only, providers=providers)

    def with_recorded_batches(self) -> Run:
        """Return the run with half the batches, if an earlier attempt recorded that a GPU was too small, and warn about it."""
        halved = batches.recorded(self.store, self.plan)
        if not halved:
            return self
        self.progress.warn(batches.warning(halved))
        return replace(self, plan=self.plan.with_batches(halved), halved=halved)

    def _complete(self) -> Outcome:
        from curate.report import write_report

        manifest = self.store.read_json("manifest.json")
        retry = self.options.retry_failed and self.plan.fetches
        same = manifest is not None and manifest.get("run") == self._made_of()
        if manifest is not None and same and not (manifest["failed_shards"] or retry):
            return self._finished(manifest)
        self._begin()
        self.store.sweep()
        attempts = self.attempts()
        packed = self.steps(attempts)
        outcome = packed.run.conclude(packed, attempts)
        self.progress.start("report", 0)
        lines = write_report(self.store.storage)
        self.store.sweep()
        return replace(outcome, attrition=lines)

    def _finished(self, manifest: dict[str, Any]) -> Outcome:
        """Return the outcome of a finished run; make its report if a kill came between manifest and report."""
        from curate.report import write_report

        if self.store.storage.size("report.html") is None:
            self.store.sweep()
            write_report(self.store.storage)
        records, texts, kept = (manifest[name] for name in ("records", "texts", "kept"))
        return Outcome(self.store.storage.root, "nothing to do", records, texts, kept, partial=manifest["partial_shards"])

    def attempts(self) -> Attempts:
        """Return the attempts that run this run's tasks."""
        find_crashes = CrashSearch(self.plan, self.store, self.runner, self.options.row_seconds)
        limit, plugins = self.options.max_failed_shards, self.plan.recipe.plugins
        return Attempts(self.store, self.runner, self.progress, find_crashes, limit, plugins)

    def _begin(self) -> None:
        """Remove what is not of this run, and write what OUT is of; with more input, or tried again, it stays a finished one."""
        was = identity.held(self.store)
        finished = was is not None and was.finished and (self.options.into == "add" or was.made_of == self._made_of())
        counts = was.counts if was is not None and was.run == self.key() else {}
        if not finished:
            self.store.storage.remove([identity.NAME])
        self.store.clear_outputs(self.key())
        enter(self.store.storage)
        identity.record(self.store, replace(self._identity(), finished=finished, counts=counts), self.shards)

    def key(self) -> str:
        """Return the folder of this run's marks: a hash of recipe, facts, input and code, but not of how samples are packed.

        Where input is added to an output, the folder stays: verdicts of the shards that it had are still valid.
        """
        if self.marks is not None:
            return self.marks
        return self._hash_of_verdicts()

    def _hash_of_verdicts(self) -> str:
        only = self.options.counted_only
        input_ = [self.shards.digest, *([only] if only else [])]
        text = json.dumps([__version__, FORMAT, self.plan.decisive(), *input_], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(text.encode())

    def _made_of(self) -> str:
        """Return a hash of all that decides what OUT holds."""
        output = json.dumps(self.plan.recipe.resolved()["output"], sort_keys=True)
        return f"{self._hash_of_verdicts()}-{xxhash.xxh3_64_hexdigest(output.encode())}"

    # Steps -----------------------------------------------------------------------------------------------------------

    def steps(self, attempts: Attempts) -> Packed:
        """Scan, merge, fetch, judge and pack what is missing."""
        lookups = self._scan(attempts)
        if "fetch" in self._passes:
            self._fetch(lookups, attempts)
        run, judge = self, self.judge(lookups)
        try:
            run._judge(judge, attempts)
        except OutOfDeviceMemory:
            was, root = identity.held(self.store), self.store.storage.root
            if was is not None and was.finished:  # other batches would be other facts for all that it holds
                raise OutputError(
                    f"a GPU is too small for the batches that made {root}; use a larger one, or another --out"
                ) from None
            batches.halve(self.store, self.plan)
            run = replace(self, marks=None).with_recorded_batches()
            run._begin()
            judge = run.judge(lookups)
            run._judge(judge, attempts)
        return Packed(run, lookups, run._pack(judge, attempts))

    @property
    def _passes(self) -> dict[str, Pass]:
        return {one.name: one for one in self.plan.passes(gpus=self.options.gpus > 0)}

    @property
    def _resume(self) -> Resume:
        return Resume(self.store, self.plan.recipe.output.block_shards)

    def _judged_shards(self, attempts: Attempts) -> Index:
        """Return the indexes of the shards that have verdicts: those that are not only counted and did not fail."""
        wanted = np.arange(len(self.shards) - self.options.counted_only)
        return without(wanted, index_of(attempts.failed))

    def _scan(self, attempts: Attempts) -> dict[str, Lookup]:
        """Scan shards and merge their partial counts; return the look-ups by fact."""
        task = replace(self._scanning(), removed=removed.digest(self.store))
        missing = self._resume.unscanned(task, self.shards)
        begin(self.progress, "scan", len(missing), len(self.shards))
        attempts.run(task, self.shards.at(missing))
        if not self.plan.counts:
            return {}
        self.progress.start("merge corpus counts", 0)
        scanned = without(np.arange(len(self.shards)), index_of(attempts.failed))
        merging = Scanned(self.shards.fingerprints[scanned], scanned)
        return merge(self.store, self.plan.counts, merging, Engine(self.runner, self.options.memory))

    def _scanning(self) -> Scan:
        return Scan(self.store, self.plan.base_key, self.plan.header, self.plan.text, self.plan.counts)

    def _fetch(self, lookups: dict[str, Lookup], attempts: Attempts) -> None:
        """Fetch the images that are still needed, of the shards whose records hold URLs."""
        task = Fetch(self.judge(lookups), self.plan.recipe.policy, self.options.retry_failed, self.options.download)
        web = both(np.flatnonzero(self.shards.on_the_web), self._judged_shards(attempts))
        missing = self._resume.unfetched(task, self.shards, web)
        begin(self.progress, "fetch", len(missing), len(web))
        attempts.run(task, self.shards.at(missing))

    def judge(self, lookups: dict[str, Lookup]) -> Judge:
        """Return the task that judges a shard with these corpus counts."""
        samples, prefix, gone = per_shard(len(self.shards)), self._key_prefix(), removed.digest(self.store)
        task = Judge(self.store, self.plan, self.plan.base_key, self.key(), lookups, samples, prefix, gone)
        return replace(task, row_seconds=self.options.row_seconds)

    def _key_prefix(self) -> str:
        """Return what the keys of samples begin with: the recipe's, or a hash of the name and size of the first shard.

        It tells outputs apart, and stays the same for a copy of the input elsewhere, and for one with more shards behind it.
        """
        given = self.plan.recipe.output.key_prefix
        if given is not None or not len(self.shards):
            return given or ""
        first = self.shards[0]
        return xxhash.xxh3_64_hexdigest(f"{shard_name(first)}/{first.size}".encode())[:8]

    def _judge(self, task: Judge, attempts: Attempts) -> None:
        """Judge what is missing. Raises OutOfDeviceMemory when a GPU is too small for the recipe's batch."""
        before = replace(task, earlier=self._earlier(task.lookups))
        task = before if before.earlier_marks != task.marks else task
        missing = without(self._judged_shards(attempts), self._resume.judged(task))
        with_gpu = self._prepare(Prepare(task), missing, attempts) if "prepare" in self._passes else _NONE
        rest = without(both(missing, self._judged_shards(attempts)), with_gpu)
        advice = None if not self.halved and batches.can_halve(self.plan) else batches.advice(self.plan)
        begin(self.progress, "judge", len(rest), len(rest) + len(self._judged_shards(attempts)) - len(missing))
        attempts.run(task, self.shards.at(rest), replace(self._passes["judge"].needs, gpus=0), advice)
        if len(with_gpu):
            threads = max(1, int(self.options.threads * self.options.gpu_share))
            needs = Needs(threads, gpus=self.options.gpu_share, models=True)
            self.progress.start("judge with models", len(with_gpu))
            attempts.run(replace(task, threads=threads), self.shards.at(with_gpu), needs, advice)
        self._trim_thumbs(task, self._judged_shards(attempts))
        if task.earlier:
            self.store.storage.remove_folder(f"marks/{task.run}/{task.earlier_marks}")

    def _earlier(self, lookups: dict[str, Lookup]) -> dict[str, Lookup]:
        """Return the corpus counts of the verdicts that OUT has, if they are there still."""
        was = identity.held(self.store)
        names = {} if was is None else was.counts
        found = {fact: load(self.store.storage, name) for fact, name in names.items()}
        complete = {fact: lookup for fact, lookup in found.items() if lookup is not None}
        return complete if complete.keys() == lookups.keys() else {}

    def _trim_thumbs(self, task: Judge, judged: Index) -> None:
        """Leave out the thumbnails of judged shards that would not have been made with as many shards as there are now."""
        if len(self.shards) > FEW_SHARDS:
            return  # the fewest that there are of a shard
        for index in judged:
            name = f"thumbs/{index:06d}.parquet"
            with self.store.storage.reading(name) as path:
                less = fewer(path, task.samples)
            if less is not None:
                with self.store.writing(name) as target:
                    write_thumbs(target, less)

    def _prepare(self, task: Prepare, missing: Index, attempts: Attempts) -> Index:
        """Compute on all cores what the models need; return the indexes of the shards for which the models must run."""
        unprepared = without(missing, self._resume.prepared(task))
        begin(self.progress, "prepare", len(unprepared), len(missing))
        attempts.run(task, self.shards.at(unprepared))
        return both(both(missing, self._resume.for_models(task)), self._judged_shards(attempts))

    def _pack(self, judge: Judge, attempts: Attempts) -> Iterator[Mark]:
        """Pack what is missing; return the marks of all blocks in order."""
        task = Pack(self.store, self.plan, judge.base, judge.run, judge.marks)
        packing = Packing(task, self.shards, self._resume, attempts)
        return packing.marks(lambda: self._judged_shards(attempts))

    def conclude(self, packed: Packed, attempts: Attempts) -> Outcome:
        """Write the lists of files, what trainers look for, and last the manifest, whose presence means done."""
        summary = write_lists(self.store, packed.marks)
        partial = [{"shard": shard_name(self.shards[at]), "reason": reason} for at, reason in summary.broken.items()]
        failed = [failure.described() for failure in attempts.failures]
        warnings = [*self.options.warnings, *([batches.warning(self.halved)] if self.halved else [])]
        about = described(self.plan, self.shards, packed.lookups, warnings)
        about["input"]["counted_only"] = self.options.counted_only
        manifest = {
            "run": self._made_of(),
            **about,
            **attrition([step.name for step in self.plan.steps], summary.tally),
            "files": summary.files,
        }
        manifest |= {"halved_batch": self.halved} if self.halved else {}
        manifest |= {"failed_shards": failed, "partial_shards": partial}
        self.store.write_json("manifest.json", manifest)
        counts = {fact: lookup.name for fact, lookup in packed.lookups.items()}
        identity.record(self.store, replace(self._identity(), finished=True, counts=counts), self.shards)
        tally, root = summary.tally, self.store.storage.root
        return Outcome(root, "done", tally["records"], tally["texts"], tally["kept"], failed, partial, attempts.seconds)


_NONE = np.empty(0, np.int64)
