"""Which stage provides a fact: what a recipe can have, and the stages that a filter needs, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import curate.stages.mojibake  # noqa: F401 - no filter provides its fact, which `sql` may read
from curate.core.contracts import IMAGE_VIEWS, Filter, Stage
from curate.core.errors import RecipeError
from curate.core.facts import FACTS, PROVIDERS
from curate.planning.recipe import Recipe
from curate.stages.blocklist import BlocklistStage
from curate.stages.decode import DecodeStage
from curate.stages.embedding import EmbeddingStage, embedding_stage
from curate.stages.language import LanguageStage


def decoded_bytes(recipe: Recipe) -> int:
    """Return the most bytes that an image may decode to."""
    return int(getattr(recipe.filters["unreadable"], "max_decoded_bytes"))  # noqa: B009 - a field of that filter


def available(recipe: Recipe) -> list[Stage]:
    """Return the stages that the recipe can have: the decoder, language, its captioner, and those of its filters."""
    stages = [stage for rule in recipe.filters.values() if isinstance(stage := rule.provider(), Stage)]
    if recipe.captions is not None:
        stages.insert(0, recipe.captions)
    stages += _anywhere(recipe, stages)
    stages += _embeddings(stages)
    colour, limit = any("pixels" in stage.reads for stage in stages), decoded_bytes(recipe)
    decode = DecodeStage(view="rgb" if colour else "grey", max_bytes=limit)
    stages = [replace(stage, max_bytes=limit) if isinstance(stage, BlocklistStage) else stage for stage in stages]
    return [decode, LanguageStage(), *stages]


def _embeddings(stages: list[Stage]) -> list[EmbeddingStage]:
    """Return the stages that provide the embeddings which other stages read: one for each spec."""
    columns = dict.fromkeys(column for stage in stages for column in stage.reads)
    return [stage for stage in map(embedding_stage, columns) if stage is not None]


def _anywhere(recipe: Recipe, stages: list[Stage]) -> list[Stage]:
    """Return the stages whose facts filters read although no filter of the recipe provides them."""
    provided = {name for stage in stages for name in stage.provides.names}
    wanted = (PROVIDERS.get(fact) for rule in recipe.filters.values() for fact in rule.reads() if fact not in provided)
    kinds = dict.fromkeys(kind for kind in wanted if kind is not None and issubclass(kind, Stage) and kind.anywhere)
    return [kind() for kind in kinds if kind is not LanguageStage]


@dataclass(frozen=True)
class Providers:
    """Where facts come from: the stages of a recipe, and the names that are known without any."""

    stages: list[Stage]
    known: set[str]

    def of(self, column: str) -> Stage | None:
        """Return the stage that provides a fact or an image view, or None."""
        views = column in IMAGE_VIEWS
        return next((stage for stage in self.stages if (stage.decodes if views else column in stage.provides.names)), None)


def closure(name: str, wanted: Iterable[str], providers: Providers, done: set[str]) -> list[Stage]:
    """Return the stages that provide `wanted`, and what they read, in order of need, without those already `done`."""
    found: list[Stage] = []
    for column in wanted:
        stage = providers.of(column)
        if stage is None:
            raise RecipeError(f"{name} reads {column}, which no filter of this recipe provides")
        if stage.name in done:
            continue
        unknown = [item for item in stage.reads if item not in providers.known]
        needed = [item for item in unknown if item in FACTS or providers.of(item) is not None]
        needed += [item for item in stage.optional if providers.of(item) is not None]
        found += closure(name, needed, providers, done)
        done.add(stage.name)
        found.append(stage)
    return found


def judges_pictures(rule: Filter) -> bool:
    """Return whether a filter brings a stage that works on the decoded image."""
    stage = rule.provider()
    return isinstance(stage, Stage) and any(map(_of_pictures, stage.reads))


def _of_pictures(column: str) -> bool:
    """Return whether a column is decoded images, or what the decoder or an embedder makes of them."""
    embedding = embedding_stage(column)
    decoded = {*IMAGE_VIEWS, *(fact.name for fact in DecodeStage.facts)}
    return column in decoded or (embedding is not None and any(map(_of_pictures, embedding.reads)))
