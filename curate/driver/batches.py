"""Half the batch for every shard of a run, after a GPU ran out of memory: the size of a batch changes results."""

from __future__ import annotations

from collections.abc import Mapping

from curate.planning.plan import Plan
from curate.storage.store import Store

_HALVED = "halved.json"
"""In OUT: the halved batches by stage, and the stages that they apply to."""

_SETTINGS = {"caption": "captions.batch", "match": "caption_match.batch"}
"""Where a recipe sets the batch of a stage."""


def halve(store: Store, plan: Plan) -> None:
    """Record that this plan's stages must run with half their batch; a killed run then resumes with it."""
    half = {name: max(1, batch // 2) for name, batch in plan.batches().items()}
    store.write_json(_HALVED, {"stages": _stages(plan), "batch": half})


def recorded(store: Store, plan: Plan) -> dict[str, int]:
    """Return the halved batches, by stage, that were recorded for exactly this plan's stages; empty if there are none."""
    found = store.read_json(_HALVED)
    if found is None or found["stages"] != _stages(plan):
        return {}
    batch: dict[str, int] = found["batch"]
    return batch


def can_halve(plan: Plan) -> bool:
    """Return whether any stage's batch is larger than 1."""
    return any(batch > 1 for batch in plan.batches().values())


def warning(halved: Mapping[str, int]) -> str:
    """Return the warning for a run with halved batches."""
    sizes = ", ".join(f"{_SETTINGS[name]}={batch}" for name, batch in halved.items())
    return f"a batch did not fit the GPU's memory: all of the run has half of it, {sizes}"


def advice(plan: Plan) -> str:
    """Return what to change in the recipe when even the halved batch does not fit."""
    wanted = " and ".join(f"{_SETTINGS[name]}={max(1, batch // 2)}" for name, batch in plan.batches().items())
    return f"set {wanted}" if can_halve(plan) else "its memory is too small for this model"


def _stages(plan: Plan) -> dict[str, str]:
    return {stage.name: plan.keys[stage.name] for stage in plan.stages() if stage.name in plan.batches()}
