"""From a recipe to what must be computed, in which order: corpus counts, stages just before the first filter that reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

import xxhash

from curate import filters
from curate.core.contracts import CorpusCount, Filter, ModelKind, Stage, UsesModels
from curate.core.errors import RecipeError
from curate.core.facts import FACTS
from curate.planning.recipe import Recipe
from curate.stages.caption import CaptionStage
from curate.stages.clip import ClipStage
from curate.stages.decode import DecodeStage
from curate.stages.header import HeaderStage
from curate.stages.language import LanguageStage
from curate.stages.match import MatchStage
from curate.stages.text import TextStage

FETCH = "fetch"
"""The filter where a pass ends for records whose images are on the web: those alive by then are fetched."""

_BEFORE_IMAGES = ("record", "text", "language")
"""Providers whose facts are known before an image is fetched; so are all corpus counts that do not need the content of images."""

EAGER = ("record", "header", "fetch", "text")
"""Providers whose facts every record gets while its shard is scanned: they cost less than knowing whether it is alive."""

TRANSIENT = ("pixels", "pictures")
"""Columns that exist while images are in memory: what reads them runs after the decode stage, which rules on the image."""

COST = {
    "text": 4e-6,
    "header": 1.5e-4,
    "counts": 4e-6,
    "language": 1e-5,
    "blocklist": 1e-6,
    "eval_distance": 1e-6,
    "decode": 2e-3,
    "eval_similarity": 1.2e-2,
    "nsfw": 2e-2,
    "caption": 4e-2,
    "match": 2e-2,
    "clip": 2e-2,
}
"""Core-seconds a record, measured on one core of a server (caption, match, clip: `mini`): orders of magnitude for `plan`."""


@dataclass(frozen=True)
class Step:
    """One filter and the stages that run, on the rows alive by then, before it."""

    name: str
    rule: Filter
    stages: tuple[Stage, ...]
    lazy: bool  # reads at least one fact that is only computed for rows alive

    @property
    def asks_for_pictures(self) -> bool:
        """Return whether a captioner or matcher runs before it: the work of a GPU where there is one."""
        return any("pictures" in stage.reads for stage in self.stages)


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
        """Return what writes synthetic texts: then a dropped web text does not end its record."""
        return self.recipe.captions

    @property
    def asks_for_pictures(self) -> bool:
        """Return whether it has a captioner or a matcher."""
        return any(step.asks_for_pictures for step in self.steps)

    @property
    def fetches(self) -> bool:
        """Return whether images are fetched for records that name theirs by url."""
        return FETCH in self.recipe.filters

    def stages(self) -> Iterator[Stage]:
        """Yield the lazy stages in the order in which they run."""
        for step in self.steps:
            yield from step.stages
        yield from self.last

    def models(self) -> Iterator[tuple[str, ModelKind, str]]:
        """Yield (stage, kind, spec) of every model that the stages load."""
        for stage in self.stages():
            if isinstance(stage, UsesModels):
                yield from ((stage.name, kind, spec) for kind, spec in stage.models())

    def batches(self) -> dict[str, int]:
        """Return the images of one call into its model, for each stage that has such a setting."""
        return {stage.name: stage.batch for stage in self.stages() if isinstance(stage, CaptionStage | MatchStage)}

    def with_batches(self, batches: dict[str, int]) -> Plan:
        """Return the plan of the same recipe with other batches, by stage: other facts, for the last bits are others."""
        captions = _batched(self.recipe.captions, batches)
        rules = {name: _batched(rule, batches) for name, rule in self.recipe.filters.items()}
        steps = [
            dataclasses.replace(step, rule=rules[step.name], stages=tuple(_batched(stage, batches) for stage in step.stages))
            for step in self.steps
        ]
        recipe = dataclasses.replace(self.recipe, captions=captions, filters=rules)
        return dataclasses.replace(self, recipe=recipe, steps=tuple(steps))

    def with_stages(self, resolved: dict[str, Stage]) -> Plan:
        """Return the plan with stages replaced by name (evaluation sets found and signed)."""
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
        """Return everything that decides verdicts, as JSON values."""
        return {
            "recipe": {**self.recipe.resolved(), "output": None, "name": None, "fetch": None},
            "stages": [provider_key(self.header), provider_key(self.text), *map(provider_key, self.stages())],
        }

    def warnings(self) -> list[str]:
        """Return what a person should know before the run: dear filters before free ones, sets that were not given."""
        found = []
        for position, step in enumerate(self.steps):
            later = [other.name for other in self.steps[position + 1 :] if not other.lazy and other.rule.reads()]
            dear = sum(COST.get(stage.name, 0) for stage in step.stages)
            if dear >= 1e-3 and later:
                cost = f"about {dear * 1e3:.0f} ms a record"
                found.append(f"{step.name} costs {cost} and stands before {', '.join(later)}, which cost nothing")
        overlap = self.recipe.filters.get("eval_overlap")
        if overlap is not None and not overlap.reads():
            found.append(
                "NO EVALUATION SETS WERE GIVEN: nothing was checked against leaks. Give --set eval_overlap.sets=FOLDER[,TAR...]"
            )
        return found


def fetching(recipe: Recipe) -> Recipe:
    """Return a recipe with the filter `fetch`, and before it every filter that needs no image, in their order.

    Raises RecipeError when something is counted by the content of images that nobody has yet.
    """
    known = {fact.name for fact in FACTS.values() if fact.provider in _BEFORE_IMAGES}
    for name, rule in recipe.filters.items():
        count = rule.provider()
        if isinstance(count, CorpusCount):
            if count.needs_image_content:
                raise RecipeError(f"{name}: identity=content needs the images, and this input has their urls; use identity=url")
            known.add(count.fact)
    free = {name: rule for name, rule in recipe.filters.items() if rule.reads() and known.issuperset(rule.reads())}
    rest = {name: rule for name, rule in recipe.filters.items() if name not in free and name != FETCH}
    fetch = recipe.filters.get(FETCH) or filters.load(FETCH)()
    return dataclasses.replace(recipe, filters={**free, FETCH: fetch, **rest})


def plan(recipe: Recipe) -> Plan:
    """Derive the plan of a recipe. Raises RecipeError when a filter reads a fact that nothing provides."""
    providers = [rule.provider() for rule in recipe.filters.values()]
    counts = tuple(provider for provider in providers if isinstance(provider, CorpusCount))
    stages = [provider for provider in providers if provider is not None and not isinstance(provider, CorpusCount)]
    pixels = any("pixels" in stage.reads for stage in stages)
    limit = getattr(recipe.filters["unreadable"], "max_decoded_bytes")  # noqa: B009 - a field of that filter
    decode = DecodeStage(view="rgb" if pixels else "grey", max_bytes=limit)
    captions = [] if recipe.captions is None else [recipe.captions]
    stages = [_of_texts(stage, recipe.captions) for stage in stages]
    available: list[Stage] = [decode, LanguageStage(), *captions, *stages]
    done: set[str] = set()
    steps = []
    for name, rule in recipe.filters.items():
        counted = {count.fact for count in counts}
        wanted = [fact for fact in rule.reads() if fact not in counted and FACTS[fact].provider not in EAGER]
        steps.append(Step(name, rule, tuple(_closure(name, wanted, available, done)), bool(wanted)))
    last = tuple(_closure("output", ["language"], available, done))
    return Plan(recipe, HeaderStage(max_decoded_bytes=limit), TextStage(), counts, tuple(steps), last)


def _of_texts(stage: Stage, captions: CaptionStage | None) -> Stage:
    """Return a stage that scores texts with the captions among them, if the recipe has any."""
    return dataclasses.replace(stage, captions=captions) if isinstance(stage, MatchStage | ClipStage) else stage


def _closure(name: str, wanted: list[str], available: list[Stage], done: set[str]) -> list[Stage]:
    """Return the stages that provide `wanted`, and what they read, in order of need, without those already `done`."""
    found: list[Stage] = []
    for fact in wanted:
        column = "phash" if fact in TRANSIENT else fact
        stage = next((stage for stage in available if column in stage.provides.names), None)
        if stage is None:
            raise RecipeError(f"{name} reads {fact}, which no filter of this recipe provides")
        if stage.name in done:
            continue
        needed = [item for item in stage.reads if item in TRANSIENT or (item in FACTS and FACTS[item].provider not in EAGER)]
        found += _closure(name, needed, available, done)
        done.add(stage.name)
        found.append(stage)
    return found


def _batched(part: Any, batches: dict[str, int]) -> Any:
    """Return a stage, or a filter that makes one, with the batch that is named for it."""
    if isinstance(part, Filter):
        made = part.provider()
        return dataclasses.replace(cast(Any, part), batch=batches[made.name]) if isinstance(made, MatchStage) else part
    if isinstance(part, MatchStage | ClipStage):
        part = dataclasses.replace(part, captions=_batched(part.captions, batches))
    return dataclasses.replace(part, batch=batches[part.name]) if isinstance(part, CaptionStage | MatchStage) else part


def identity(value: Any) -> Any:
    """Return what of a stage decides its facts, as JSON values; fields marked `identity: False` do not."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [item for item in dataclasses.fields(value) if item.metadata.get("identity", True)]
        return {item.name: identity(getattr(value, item.name)) for item in kept}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value


def provider_key(stage: Stage) -> str:
    """Return NAME-HASH: the stage's name, version and parameters; facts are stored under it."""
    described = json.dumps([stage.name, stage.version, identity(stage)], sort_keys=True)
    return f"{stage.name}-{xxhash.xxh3_64_hexdigest(described.encode())}"
