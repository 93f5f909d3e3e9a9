"""A plan with everything that decides facts read: evaluation sets, lists, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from curate.core.contracts import Stage
from curate.core.errors import ModelError
from curate.planning.plan import Plan
from curate.stages.blocklist import BlocklistStage
from curate.stages.eval_overlap import EvalDistanceStage, EvalSimilarityStage
from curate.storage.store import Store


def resolve(plan: Plan, cache: Path) -> tuple[Plan, list[str]]:
    """Return the plan with evaluation sets and lists read and models named by their weights: what decides facts, in full.

    With it, warnings about files of the sets that could not be read. Raises ModelError, InputError.
    """
    resolved = _weighed(plan)
    warnings: list[str] = []
    for planned in plan.stages():
        stage = resolved.get(planned.name, planned)
        if isinstance(stage, EvalSimilarityStage | EvalDistanceStage):
            signed = stage.resolved(cache)
            resolved[stage.name] = signed
            warnings += [f"evaluation set {ref.path}: {_unread(ref.unreadable)}" for ref in signed.sets if ref.unreadable]
        elif isinstance(stage, BlocklistStage):
            resolved[stage.name] = stage.resolved(cache)
    return plan.with_stages(resolved), warnings


def published(plan: Plan, store: Store) -> Plan:
    """Return the plan with the signatures of its evaluation sets in OUT."""
    from curate.stages.evalsets import published

    found: dict[str, Stage] = {}
    for stage in plan.stages():
        if isinstance(stage, EvalSimilarityStage | EvalDistanceStage):
            found[stage.name] = replace(stage, sets=tuple(published(ref, store.storage) for ref in stage.sets))
    return plan.with_stages(found)


def _weighed(plan: Plan) -> dict[str, Stage]:
    """Return the stages that load a model, each with the sha256 of its weights. Raises ModelError where a recipe has another."""
    from curate.models.checks import check

    found: dict[str, Stage] = {}
    for stage in plan.stages():
        models = stage.models()
        if len(models) == 1 and hasattr(stage, "weights"):
            [(kind, spec)] = models
            digest = check(kind, spec).sha256
            if stage.weights not in (None, digest):
                raise ModelError(f"{spec}: the recipe wants weights {stage.weights}, these are {digest or 'of unknown sha256'}")
            found[stage.name] = replace(cast(Any, stage), weights=digest)
    return found


def _unread(names: Sequence[str]) -> str:
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} images do not decode and are compared with nothing: {listed}"
