"""From a recipe to what must be computed, in which order: corpus counts, and stages just before a filter reads their facts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

import xxhash

from curate.core.contracts import IMAGE_VIEWS, CorpusCount, Filter, ModelKind, Needs, Stage
from curate.core.errors import RecipeError
from curate.core.facts import RECORD_FACTS, Fact
from curate.core.hashing import code_of
from curate.planning.providers import Providers, available, closure, decoded_bytes
from curate.planning.recipe import Recipe
from curate.stages.caption import CaptionStage
from curate.stages.decode import DecodeStage
from curate.stages.embedding import embedding_stage
from curate.stages.header import HeaderStage
from curate.stages.language import LanguageStage
from curate.stages.text import TextStage

FETCH = "fetch"
"""The filter that judges what came of fetching: before it, living records whose images are on the web are fetched."""

Until: TypeAlias = Literal["counts", "fetch", "device", "decisions", "tars"]
"""Why a pass ends: a fact of the whole corpus is due, images are fetched, the work moves to GPUs, or its output is complete."""

_EXPENSIVE = 1e-3  # core-seconds a record: worth a warning before filters that cost nothing


@dataclass(frozen=True)
class Step:
    """One filter and the stages that run before it, on the rows alive by then."""

    name: str
    rule: Filter
    stages: tuple[Stage, ...]
    lazy: bool  # reads at least one fact that is only computed for living rows

    @property
    def on_gpu(self) -> bool:
        """Return whether a stage of it runs on a GPU where there is one."""
        return any(stage.needs.gpus for stage in self.stages)


@dataclass(frozen=True)
class Pass:
    """One sweep over the shards, a task each: it ends where the resource changes, or where something is due that no shard knows.

    `steps` are the filters that it evaluates, in order. A pass may evaluate steps that an earlier one has evaluated: their
    facts are in the store by then.
    """

    name: str
    steps: tuple[Step, ...]
    needs: Needs
    until: Until


@dataclass(frozen=True)
class Plan:
    """What a recipe needs."""

    recipe: Recipe
    header: HeaderStage
    text: TextStage
    counts: tuple[CorpusCount, ...]
    steps: tuple[Step, ...]
    last: tuple[Stage, ...]  # facts that the output carries and no filter reads: for kept records only

    @property
    def captions(self) -> CaptionStage | None:
        """Return the stage that writes synthetic texts, if any: then a dropped web text does not end its record."""
        return self.recipe.captions

    @property
    def fetches(self) -> bool:
        """Return whether images are fetched for records that hold URLs."""
        return FETCH in self.recipe.filters

    @property
    def on_gpu(self) -> bool:
        """Return whether any step runs on a GPU where there is one."""
        return any(step.on_gpu for step in self.steps)

    @property
    def decode(self) -> DecodeStage:
        """Return the decoder."""
        return cast(DecodeStage, next(stage for stage in self.stages() if stage.decodes))

    def stages(self) -> Iterator[Stage]:
        """Yield the lazy stages in the order in which they run."""
        for step in self.steps:
            yield from step.stages
        yield from self.last

    def passes(self, *, gpus: bool = False) -> tuple[Pass, ...]:
        """Return the passes in order; with `gpus`, what runs on GPUs has a pass of its own after one that prepares on cores."""
        found = [Pass("scan", (), Needs(), "counts")]
        if self.fetches:
            found.append(Pass("fetch", self.before(self.step(FETCH)), Needs(), "fetch"))
        first = self.first_on_gpu
        if gpus and first is not None:
            found.append(Pass("prepare", self.before(first), needs_of(self.before(first)), "device"))
        judge = needs_of(self.steps, self.last)
        found.append(Pass("judge", self.steps, judge if gpus else dataclasses.replace(judge, gpus=0), "decisions"))
        return (*found, Pass("pack", (), Needs(), "tars"))

    @property
    def first_on_gpu(self) -> Step | None:
        """Return the first step that runs on a GPU where there is one."""
        return next((step for step in self.steps if step.on_gpu), None)

    def step(self, name: str) -> Step:
        """Return the step of a filter. Raises KeyError."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def before(self, step: Step | None) -> tuple[Step, ...]:
        """Return the steps before one; all of them for None."""
        names = [one.name for one in self.steps]
        return self.steps if step is None else self.steps[: names.index(step.name)]

    @property
    def shown(self) -> tuple[Fact, ...]:
        """Return the facts that decisions carry beside the evidence; one that a filter has its name from is that evidence."""
        stages = sorted(self.stages(), key=lambda stage: not isinstance(stage, LanguageStage))
        decode = [stage for stage in stages if stage.decodes]
        ordered = [self.header, self.text, *stages[:1], *decode, *(s for s in stages[1:] if not s.decodes)]
        filters = self.recipe.filters
        return tuple(fact for stage in ordered for fact in stage.facts if fact.shown and fact.name not in filters)

    @cached_property
    def gathered(self) -> tuple[Fact, ...]:
        """Return the facts of the lazy stages that decisions are made of beside the evidence: those shown, and captions."""
        shown = {fact.name for fact in (*self.shown, *(() if self.captions is None else self.captions.facts))}
        return tuple(fact for stage in self.stages() for fact in stage.facts if fact.name in shown)

    @cached_property
    def keys(self) -> dict[str, str]:
        """Return NAME-HASH of each stage, by name: facts are stored under it.

        It is a hash of the stage's version, its code where that is not curate's, its parameters, and the keys of the stages
        whose facts it reads: whatever changes what a stage sees changes the key.
        """
        every = [self.header, self.text, *self.stages()]
        providers = {fact.name: stage for stage in every for fact in stage.facts}
        providers |= {view: stage for stage in every if stage.decodes for view in IMAGE_VIEWS}
        found: dict[str, str] = {}

        def key(stage: Stage) -> str:
            if stage.name not in found:
                read = dict.fromkeys(providers[name] for name in (*stage.reads, *stage.optional) if name in providers)
                described = [stage.name, stage.version, code_of(stage.declared_by()), identity(stage), sorted(map(key, read))]
                digest = xxhash.xxh3_64_hexdigest(json.dumps(described, sort_keys=True).encode())
                found[stage.name] = f"{stage.name}-{digest}"
            return found[stage.name]

        return {stage.name: key(stage) for stage in every}

    @property
    def base_key(self) -> str:
        """Return the name under which a shard's base facts are stored: it changes with the stages that make them."""
        return "base-5" + self.keys[self.header.name].rsplit("-", 1)[1] + self.keys[self.text.name].rsplit("-", 1)[1]

    def models(self) -> Iterator[tuple[str, ModelKind, str]]:
        """Yield (stage, kind, spec) of every model that the stages load."""
        for stage in self.stages():
            yield from ((stage.name, kind, spec) for kind, spec in stage.models())

    def batches(self) -> dict[str, int]:
        """Return the images of one call into its model, for each stage that has such a setting."""
        return {stage.name: stage.batch for stage in self.stages() if hasattr(stage, "batch")}

    def with_batches(self, batches: dict[str, int]) -> Plan:
        """Return the plan of the same recipe with other batches, by stage: other facts, for the last bits are others."""

        def batched(part: Any, stage: Stage | CorpusCount | None) -> Any:
            size = batches.get(stage.name) if isinstance(stage, Stage) else None
            return part if size is None else dataclasses.replace(part, batch=size)

        captions = batched(self.recipe.captions, self.recipe.captions)
        rules = {name: batched(rule, rule.provider()) for name, rule in self.recipe.filters.items()}
        steps = (
            dataclasses.replace(step, rule=rules[step.name], stages=tuple(batched(stage, stage) for stage in step.stages))
            for step in self.steps
        )
        recipe = dataclasses.replace(self.recipe, captions=captions, filters=rules)
        return dataclasses.replace(self, recipe=recipe, steps=tuple(steps))

    def with_stages(self, resolved: dict[str, Stage]) -> Plan:
        """Return the plan with stages replaced by name (evaluation sets read, weights known)."""
        steps = []
        for step in self.steps:
            stages = tuple(resolved.get(stage.name, stage) for stage in step.stages)
            steps.append(dataclasses.replace(step, stages=stages))
        return dataclasses.replace(self, steps=tuple(steps))

    def without(self, names: Collection[str]) -> Plan:
        """Return the plan without some filters and the corpus counts that only they read (a dry run that lacks counts)."""
        rules = {name: rule for name, rule in self.recipe.filters.items() if name not in names}
        return plan(dataclasses.replace(self.recipe, filters=rules))

    def decisive(self) -> dict[str, Any]:
        """Return everything that decides verdicts, keys and thumbnails, as JSON values."""
        packing = self.recipe.output
        output = [packing.key_prefix, packing.show_nsfw, packing.empty_text]
        recipe = {**self.recipe.resolved(), "output": output, "name": None, "fetch": None}
        foreign = {name: code for name, rule in self.recipe.filters.items() if (code := code_of(type(rule))) is not None}
        return {"recipe": recipe, "stages": self.keys, "foreign": foreign}

    def warnings(self) -> list[str]:
        """Return what a person should know before the run: expensive filters before free ones, sets that were not given."""
        found = []
        for position, step in enumerate(self.steps):
            later = [other.name for other in self.steps[position + 1 :] if not other.lazy and other.rule.reads()]
            cost = sum(stage.cost for stage in step.stages)
            if cost >= _EXPENSIVE and later:
                time = f"about {cost * 1e3:.0f} ms a record"
                found.append(f"{step.name} costs {time} and runs before {', '.join(later)}, which cost nothing")
        return [*found, *(text for step in self.steps for text in step.rule.warnings())]

    def notes(self) -> list[str]:
        """Return what is good to know and no reason to stop: how words are counted, if a filter reads their number."""
        return [self.text.note()] if any("words" in step.rule.reads() for step in self.steps) else []


def needs_of(steps: Iterable[Step], last: Iterable[Stage] = ()) -> Needs:
    """Return what a worker must have to run the stages of some steps."""
    every = [*(stage.needs for step in steps for stage in step.stages), *(stage.needs for stage in last)]
    cpus, gpus = (max((getattr(needs, name) for needs in every), default=low) for name, low in (("cpus", 1.0), ("gpus", 0.0)))
    return Needs(cpus=cpus, gpus=gpus, models=any(needs.models for needs in every))


def plan(recipe: Recipe) -> Plan:
    """Derive the plan of a recipe. Raises RecipeError when a filter reads a fact that nothing provides."""
    providers = [rule.provider() for rule in recipe.filters.values()]
    counts = tuple(provider for provider in providers if isinstance(provider, CorpusCount))
    header, text = HeaderStage(max_decoded_bytes=decoded_bytes(recipe)), TextStage()
    stages = available(recipe)
    counted = {fact.name for fact in (*RECORD_FACTS, *header.facts, *text.facts)} | {count.fact for count in counts}
    done: set[str] = set()
    steps = []
    for name, rule in recipe.filters.items():
        wanted = [fact for fact in rule.reads() if fact not in counted]
        if vectors := [column for column in wanted if embedding_stage(column) is not None]:
            raise RecipeError(f"{name} reads {vectors[0]}: only a stage can, which makes a fact of it that is stored")
        steps.append(Step(name, rule, tuple(closure(name, wanted, Providers(stages, counted), done)), bool(wanted)))
    last = tuple(closure("output", ["language"], Providers(stages, counted), done))
    return Plan(recipe, header, text, counts, tuple(steps), last)


def fetching(recipe: Recipe) -> Recipe:
    """Return a recipe with the filter `fetch`, and before it every filter that needs no image, in their order.

    Raises RecipeError when something is counted by the content of images that nobody has yet.
    """
    from curate import filters

    for name, rule in recipe.filters.items():
        count = rule.provider()
        if isinstance(count, CorpusCount) and count.needs_image_content:
            raise RecipeError(f"{name}: identity=content needs the images, and this input has their urls; use identity=url")
    known = {fact.name for fact in (*RECORD_FACTS, *TextStage.facts) if fact.name != "fetched"}
    known |= {count.fact for rule in recipe.filters.values() if isinstance(count := rule.provider(), CorpusCount)}
    for stage in available(recipe):
        if all(column in known for column in stage.reads):
            known |= set(stage.provides.names)
    free = {name: rule for name, rule in recipe.filters.items() if rule.reads() and set(rule.reads()) <= known}
    rest = {name: rule for name, rule in recipe.filters.items() if name not in free and name != FETCH}
    fetch = recipe.filters.get(FETCH) or filters.load(FETCH)()
    return dataclasses.replace(recipe, filters={**free, FETCH: fetch, **rest})


def identity(value: Any) -> Any:
    """Return what of a stage decides its facts, as JSON values; fields marked `identity: False` do not."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [item for item in dataclasses.fields(value) if item.metadata.get("identity", True)]
        return {item.name: identity(getattr(value, item.name)) for item in kept}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value
