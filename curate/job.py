"""The job: scan every shard, merge the corpus counts, judge every shard, pack every block, and say what was done.

Every step is a task over shards with a commit mark, so a killed job goes on at the first shard without one; a finished
one does nothing. The driver streams its shards and holds nothing of their content.

With GPUs judging is two passes: every core prepares what comes before the captioner and the matcher, then a worker for
each GPU judges the shards on which these have not said everything yet.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import xxhash

import curate
from curate import guard
from curate.contracts import Needs, Report, Runner, Shard, ShardBreak, Stage, TaskDied
from curate.counts import Engine, Lookup, merge
from curate.errors import ModelError, OutOfDeviceMemory, OutputError
from curate.isolate import Suspect, confirm
from curate.judge import WAIT, Judge, Prepare, counts_of, journal_of, suspects_path
from curate.pack import Block, Pack, sizes
from curate.plan import Plan, provider_key
from curate.scan import Scan, base_key
from curate.sources import open_shard, shard_name
from curate.stages.blocklist import BlocklistStage
from curate.stages.caption import CaptionStage
from curate.stages.decode import DecodeStage
from curate.stages.embed import EvalDistanceStage, EvalSimilarityStage
from curate.stages.match import ClipStage, MatchStage
from curate.store import Store, read_json, write_json
from curate.thumbs import per_shard

ATTEMPTS = 3
"""How often a shard is tried before it is reported as failed (a confirmed culprit does not count)."""

_CULPRITS = 1000  # images of one shard that may kill their decoder before the shard itself is given up

_HALVED = "halved.json"
"""In OUT: the batches that a run went on with when a GPU had been too small, and for which stages that holds."""

_MODELS = ("caption", "match")  # stages whose models wait for pictures

_NOWHERE = pa.table({"row": pa.array([], pa.int64()), "offset": pa.array([], pa.int64()), "bytes": pa.array([], pa.int64())})

_ONE_CORE = Needs()

T = TypeVar("T", Shard, Block)


class Progress(Protocol):
    """What a job tells while it runs; the terminal draws it, tests ignore it."""

    def start(self, name: str, total: int) -> None:
        """A step begins, with so many items to do."""

    def advance(self, records: int) -> None:
        """One item of the step is done."""

    def warn(self, text: str) -> None:
        """Something happened that a person should know at once."""


@dataclass(frozen=True)
class Quiet:
    """Progress that nobody watches."""

    def start(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, records: int) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


@dataclass
class Outcome:
    """What a job did."""

    out: Path
    state: str = "done"  # done, or nothing to do
    records: int = 0
    texts: int = 0  # with the synthetic ones
    kept: int = 0  # records: those with a kept text
    failed: list[dict[str, str]] = field(default_factory=list)  # shards given up: shard, reason
    gone: set[int] = field(default_factory=set)  # indexes of the failed shards
    partial: list[dict[str, str]] = field(default_factory=list)  # shards with records lost after a break: shard, reason
    seconds: dict[str, float] = field(default_factory=dict)  # by activity, over all workers; `wait` is no work

    def idle(self) -> float | None:
        """Return the share of the time of captioner and matcher in which they waited for pictures; None without them."""
        return idle(self.seconds)


@dataclass
class Job:
    """One run of a recipe over an input into OUT. The plan's stages must be resolved (evaluation sets signed)."""

    plan: Plan
    shards: Sequence[Shard]
    store: Store
    runner: Runner
    progress: Progress = field(default_factory=Quiet)
    memory: int = 1_000_000_000  # bytes for the merge of corpus counts
    warnings: Sequence[str] = ()
    max_failed_shards: int | None = None
    row_seconds: float = guard.ROW_SECONDS
    gpus: int = 0  # with them captioner and matcher run in a pass of their own, one worker for each
    threads: int = 1  # that decode pictures beside a GPU
    _lookups: dict[str, Lookup] = field(default_factory=dict, init=False)
    _halved: dict[str, int] = field(default_factory=dict, init=False)
    _full: bool = field(default=False, init=False)  # a GPU was too small: no more items are given out

    def run(self) -> Outcome:
        """Do what is missing. Raises ModelError for a model that cannot be had, before anything is done.

        Raises OutputError when another run holds OUT or too many shards failed.
        """
        outcome = Outcome(self.store.out)
        checked(self.plan)
        with self.store.locked():
            self._recall_halved()
            key = self.key()
            manifest = read_json(self.store.out / "manifest.json")
            if manifest is not None and manifest.get("run") == self._packed_as(key) and not manifest["failed_shards"]:
                self._already(manifest, outcome)
                return outcome
            self.store.clear_outputs(key)
            self.store.sweep()
            self._lookups = self._scan(outcome)
            judged = self._judge(outcome)
            key = self.key()
            marks = self._pack(key, judged, outcome)
            judged = [shard for shard in judged if shard.index not in outcome.gone]
            self._conclude(key, judged, marks, outcome)
            self.store.sweep()
        return outcome

    def key(self) -> str:
        """Return what names the verdicts of this run: recipe, facts, input and code; how they are packed has no part in it."""
        prints = xxhash.xxh3_128_hexdigest("\n".join(shard.fingerprint for shard in self.shards).encode())
        described = json.dumps([curate.__version__, self.plan.decisive(), prints], sort_keys=True)
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
        if not (self.store.out / "report.html").exists():
            self.store.sweep()
            write_report(self.store.out)

    def _scan(self, outcome: Outcome) -> dict[str, Lookup]:
        base = base_key(self.plan)
        task = Scan(self.store, base, self.plan.header, self.plan.text, self.plan.counts)
        missing = [shard for shard in self.shards if not task.done(shard)]
        self.progress.start("scan", len(missing))
        for _ in self._tried(task, missing, outcome):
            pass
        if not self.plan.counts:
            return {}
        scanned = [(shard.index, shard.fingerprint) for shard in self.shards if task.done(shard)]
        self.progress.start("merge corpus counts", 0)
        return merge(self.store, self.plan.counts, scanned, Engine(self.runner, self.memory))

    def _judge(self, outcome: Outcome) -> list[Shard]:
        """Judge what is missing; where a GPU is too small for the batch, all of it again with half of that."""
        try:
            return self._judged(outcome)
        except OutOfDeviceMemory:
            half = {name: max(1, batch // 2) for name, batch in self.plan.batches().items()}
            write_json(self.store.out / _HALVED, {"stages": self._batched(), "batch": half})
            self._recall_halved()
            self.store.clear_outputs(self.key())
            return self._judged(outcome)

    def _recall_halved(self) -> None:
        """Go on with half the batch where an earlier attempt at the same captions and scores had to: for all shards or none."""
        found = read_json(self.store.out / _HALVED)
        if found is not None and found["stages"] == self._batched():
            self._halved, self._full = found["batch"], False
            self.plan = self.plan.with_batches(self._halved)
            self.progress.warn(_told(self._halved))

    def _batched(self) -> dict[str, str]:
        return {stage.name: provider_key(stage) for stage in self.plan.stages() if stage.name in self.plan.batches()}

    def _judged(self, outcome: Outcome) -> list[Shard]:
        key, samples = self.key(), per_shard(len(self.shards))
        task = Judge(self.store, self.plan, base_key(self.plan), key, self._lookups, samples, self.row_seconds)
        scanned = [shard for shard in self.shards if shard.index not in outcome.gone]
        missing = [shard for shard in scanned if not self._is_judged(key, shard)]
        asking = self._prepare(task, missing, outcome) if self.gpus and self.plan.asks_for_pictures else set()
        self.progress.start("judge", len(missing) - len(asking))
        rest = [shard for shard in missing if shard.index not in asking | outcome.gone]
        for _ in self._tried(task, rest, outcome, Needs(models=any(self.plan.models()))):
            pass
        if asking:
            self.progress.start("judge with models", len(asking))
            asked = [shard for shard in missing if shard.index in asking]
            for _ in self._tried(replace(task, threads=self.threads), asked, outcome, Needs(self.threads, gpus=1, models=True)):
                pass
        return [shard for shard in scanned if shard.index not in outcome.gone]

    def _prepare(self, task: Judge, missing: list[Shard], outcome: Outcome) -> set[int]:
        """Compute on all cores what comes before the models; return the indexes of the shards that lack what these say."""
        counts = counts_of(self._lookups)
        marks = {shard.index: self.store.mark(task.run, f"prepare-{shard.index:06d}") or {} for shard in missing}
        unprepared = [shard for shard in missing if marks[shard.index].get("counts") != counts]
        self.progress.start("prepare", len(unprepared))
        for report in self._tried(Prepare(task), unprepared, outcome):
            marks[report.shard] = self.store.mark(task.run, f"prepare-{report.shard:06d}") or {}
        return {index for index, mark in marks.items() if mark.get("asks") and index not in outcome.gone}

    def _is_judged(self, key: str, shard: Shard) -> bool:
        """Return whether the verdicts stand, made with these corpus counts: a shard that failed before may be in them now."""
        mark = self.store.mark(key, f"judge-{shard.index:06d}")
        there = (self.store.out / "decisions" / f"{shard.index:06d}.parquet").is_file()
        return mark is not None and there and bool(mark["counts"] == counts_of(self._lookups))

    def _pack(self, key: str, judged: list[Shard], outcome: Outcome) -> list[dict[str, Any]]:
        size = self.plan.recipe.output.block_shards
        blocks: dict[int, list[Shard]] = {}
        for shard in judged:
            blocks.setdefault(shard.index // size, []).append(shard)
        task = Pack(self.store, self.plan, base_key(self.plan), key)
        listed = [Block(index, tuple(shards)) for index, shards in sorted(blocks.items())]
        missing = [block for block in listed if not task.done(block)]
        self.progress.start("pack", len(missing))
        for _ in self._tried(task, missing, outcome):
            pass
        marks = [self.store.mark(key, f"pack-{block.index:05d}") for block in listed if task.done(_without(block, outcome.gone))]
        return [mark for mark in marks if mark is not None]

    def _tried(
        self, task: Callable[[T], Report], items: Iterable[T], outcome: Outcome, needs: Needs = _ONE_CORE
    ) -> Iterator[Report]:
        """Run a task over items, again for those whose worker died, and note the time and the failures.

        Raises OutOfDeviceMemory, once in a run, when nothing of the task is under way any more.
        """
        attempts: dict[int, int] = {}
        waiting: list[T] = list(items)
        while waiting:
            again: list[T] = []
            for answer in self.runner.map(task, takewhile(lambda _: not self._full, waiting), needs):
                if isinstance(answer, TaskDied):
                    self._full = self._full or (_is_full(answer) and self._may_halve())
                    if not (self._full and _is_full(answer)):
                        self._died(answer, attempts, again, outcome)
                    continue
                for name, seconds in answer.seconds.items():
                    outcome.seconds[name] = outcome.seconds.get(name, 0.0) + seconds
                self.progress.advance(answer.rows)
                yield answer
            if self._full:
                raise OutOfDeviceMemory
            waiting = again

    def _may_halve(self) -> bool:
        return not self._halved and any(batch > 1 for batch in self.plan.batches().values())

    def _died(self, death: TaskDied, attempts: dict[int, int], again: list[Any], outcome: Outcome) -> None:
        item: Shard | Block = death.item
        if isinstance(item, Shard) and self._blame(item):
            again.append(item)
            return
        attempts[item.index] = attempts.get(item.index, 0) + 1
        if attempts[item.index] < ATTEMPTS and not _is_full(death):
            again.append(item)
            return
        shards = [item] if isinstance(item, Shard) else _lost(item)
        reason = f"{death.reason}; {_smaller(self.plan.batches())}" if _is_full(death) else death.reason
        outcome.failed += [{"shard": shard_name(shard), "reason": reason} for shard in shards]
        outcome.gone |= {shard.index for shard in shards}
        if isinstance(item, Block) and (rest := _without(item, outcome.gone)).shards:
            attempts[item.index] = 0
            again.append(rest)
        if self.max_failed_shards is not None and len(outcome.failed) > self.max_failed_shards:
            raise OutputError(f"{len(outcome.failed)} shards failed, more than --max-failed-shards; the last: {reason}")

    def _blame(self, shard: Shard) -> bool:
        """Try the images that a dead worker was decoding, each in a process of its own, and record those that kill it too."""
        path = suspects_path(self.store, shard)
        known = read_json(path) or {}
        base = self.store.facts(base_key(self.plan), shard.fingerprint)
        if base is None or len(known) >= _CULPRITS:
            return False
        decode = next(stage for stage in self.plan.stages() if isinstance(stage, DecodeStage))
        found = {}
        for row, side in guard.inside(journal_of(self.store, shard)):
            suspect = Suspect(base, shard, row, decode, self.row_seconds, side)
            reason = None if str(row) in known else confirm(suspect, self.store.out / "work" / f"suspect-{shard.index}.row")
            if reason is not None:
                found[str(row)] = reason
        if found:
            write_json(path, {**known, **found})
        return bool(found)

    def _conclude(self, key: str, judged: list[Shard], marks: list[dict[str, Any]], outcome: Outcome) -> None:
        """Write sizes.json, then the manifest (its presence means done), then the report."""
        from curate.report import write_report

        verdicts = {shard.index: self.store.mark(key, f"judge-{shard.index:06d}") or {} for shard in judged}
        names = {shard.index: shard_name(shard) for shard in judged}
        outcome.partial = [{"shard": names[i], "reason": mark["error"]} for i, mark in verdicts.items() if mark.get("error")]
        outcome.records = sum(mark["tally"]["records"] for mark in verdicts.values())
        outcome.kept = sum(mark["tally"]["kept"] for mark in verdicts.values())
        outcome.texts = sum(mark["tally"]["texts"] for mark in verdicts.values())
        self._remove_leftovers(judged, marks)
        write_json(self.store.out / "sizes.json", sizes(marks))
        warnings = [*self.warnings, *([_told(self._halved)] if self._halved else [])]
        about = described(self.plan, self.shards, self._lookups, warnings)
        manifest = {"run": self._packed_as(key), **about, **self._attrition(verdicts, outcome)}
        manifest |= {"halved_batch": self._halved} if self._halved else {}
        manifest["shards"] = {name: tar for mark in marks for name, tar in mark["tars"].items()}
        manifest["index"] = {name: digest for mark in marks for name, digest in mark["index"].items()}
        manifest["decisions"] = {f"{index:06d}.parquet": mark["decisions"] for index, mark in verdicts.items()}
        manifest["failed_shards"], manifest["partial_shards"] = outcome.failed, outcome.partial
        write_json(self.store.out / "manifest.json", manifest)
        self.progress.start("report", 0)
        write_report(self.store.out)

    def _attrition(self, verdicts: dict[int, dict[str, Any]], outcome: Outcome) -> dict[str, Any]:
        """Return what each filter dropped, in texts: one a record without captions."""
        left, rows = outcome.texts, []
        for step in self.plan.steps:
            dropped = sum(mark["tally"].get(f"dropped:{step.name}", 0) for mark in verdicts.values())
            rows.append({"filter": step.name, "seen": left, "dropped": dropped, "left": left - dropped})
            left -= dropped
        return {"records": outcome.records, "texts": outcome.texts, "kept": outcome.kept, "kept_texts": left, "attrition": rows}

    def _remove_leftovers(self, judged: list[Shard], marks: list[dict[str, Any]]) -> None:
        """Remove tars and decisions that no mark names: of a shard that has failed since, or of a block cut otherwise."""
        tars = {name for mark in marks for name in mark["tars"]}
        names = {f"{shard.index:06d}.parquet" for shard in judged}
        blocks = {name for mark in marks for name in mark["index"]}
        for folder, wanted in (("shards", tars), ("index", blocks), ("decisions", names), ("thumbs", names)):
            for path in (self.store.out / folder).glob("*"):
                if path.name not in wanted:
                    path.unlink()


def idle(seconds: dict[str, float]) -> float | None:
    """Return the share of the time of captioner and matcher in which they waited for pictures; None without them.

    >>> idle({"caption": 2.0, "match": 1.0, "wait": 1.0, "decode": 5.0}), idle({"decode": 5.0})
    (0.25, None)
    """
    busy = sum(seconds.get(name, 0.0) for name in _MODELS)
    waited = seconds.get(WAIT, 0.0)
    return waited / (waited + busy) if busy else None


def checked(plan: Plan) -> list[dict[str, str | None]]:
    """Return stage, kind, spec, revision and sha256 of every model of a plan. Raises ModelError for one that cannot be had."""
    from curate.models.checks import check

    found = [(stage, kind, check(kind, spec)) for stage, kind, spec in plan.models()]
    return [
        {"stage": stage, "kind": kind, "spec": facts.spec, "revision": facts.revision, "sha256": facts.sha256}
        for stage, kind, facts in found
    ]


_SETTINGS = {"caption": "captions.batch", "match": "caption_match.batch"}
"""Where a recipe has the batch of a stage."""


def _is_full(death: TaskDied) -> bool:
    return death.error == OutOfDeviceMemory.__name__


def _told(halved: dict[str, int]) -> str:
    sizes = ", ".join(f"{_SETTINGS[name]}={batch}" for name, batch in halved.items())
    return f"a batch did not fit the GPU's memory: all of the run has half of it, {sizes}"


def _smaller(batches: dict[str, int]) -> str:
    wanted = " and ".join(f"{_SETTINGS[name]}={max(1, batch // 2)}" for name, batch in batches.items())
    return f"set {wanted}" if any(batch > 1 for batch in batches.values()) else "its memory is too small for this model"


def _without(block: Block, gone: set[int]) -> Block:
    return Block(block.index, tuple(shard for shard in block.shards if shard.index not in gone))


def _lost(block: Block) -> list[Shard]:
    """Return the shards of a block that cannot be opened any more; all of them when it is not that."""
    found = []
    for shard in block.shards:
        try:
            with open_shard(shard) as opened:
                list(opened.images(_NOWHERE))
        except (OSError, ShardBreak):
            found.append(shard)
    return found or list(block.shards)


def described(plan: Plan, shards: Sequence[Shard], lookups: dict[str, Lookup], warnings: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says of a run before anything is counted."""
    prints = "\n".join(shard.fingerprint for shard in shards).encode()
    return {
        "recipe": {**plan.recipe.resolved(), "about": plan.recipe.about, "source": plan.recipe.source},
        "recipe_hash": plan.recipe.digest(),
        "versions": versions(),
        "stages": {stage.name: provider_key(stage) for stage in plan.stages()},
        "input": {
            "shards": len(shards),
            "bytes": sum(shard.size for shard in shards),
            "fingerprint": xxhash.xxh3_128_hexdigest(prints),
        },
        "filters": [step.name for step in plan.steps],
        "about": {step.name: step.rule.about for step in plan.steps},
        "marks": {step.name: list(step.rule.marks()) for step in plan.steps},
        "models": checked(plan),
        "warnings": list(warnings),
        "counts": {fact: {"folder": lookup.folder.name, "floor": lookup.floor} for fact, lookup in lookups.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions that decide bytes."""
    found = {"curate": curate.__version__, "python": platform.python_version()}
    for name in ("duckdb", "fasttext-numpy2", "numpy", "onnxruntime", "pillow", "pyarrow", "simplejpeg", "torch", "xxhash"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def resolve(plan: Plan, cache: Path) -> tuple[Plan, list[str]]:
    """Return the plan with evaluation sets and lists read and models named by their weights: what decides facts, in full.

    With it, warnings about files of the sets that could not be read. Raises ModelError, InputError.
    """
    resolved = _weighed(plan)
    warnings: list[str] = []
    for stage in plan.stages():
        if isinstance(stage, EvalSimilarityStage | EvalDistanceStage):
            signed = stage.resolved(cache)
            resolved[stage.name] = signed
            warnings += [f"evaluation set {ref.path}: {_unread(ref.unreadable)}" for ref in signed.sets if ref.unreadable]
        elif isinstance(stage, BlocklistStage):
            resolved[stage.name] = stage.resolved(cache)
    return plan.with_stages(resolved), warnings


def _weighed(plan: Plan) -> dict[str, Stage]:
    """Return the stages with large models, each with the sha256 of its weights. Raises ModelError where a recipe has another."""
    from curate.models.checks import check

    found: dict[str, Stage] = {}
    for stage in plan.stages():
        if isinstance(stage, CaptionStage | MatchStage | ClipStage):
            [(kind, spec)] = stage.models()
            digest = check(kind, spec).sha256
            if stage.weights not in (None, digest):
                raise ModelError(f"{spec}: the recipe wants weights {stage.weights}, these are {digest or 'of unknown sha256'}")
            found[stage.name] = replace(stage, weights=digest)
    captions = found.get("caption")
    for name, stage in found.items():
        if isinstance(stage, MatchStage | ClipStage) and isinstance(captions, CaptionStage):
            found[name] = replace(stage, captions=captions)
    return found


def _unread(names: Sequence[str]) -> str:
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} images do not decode and are compared with nothing: {listed}"
