"""What is checked before anything of the input is read: weights of models, evaluation sets, lists, room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from curate.core.errors import DiskFull, InputError
from curate.core.shards import Shards
from curate.driver.fields import check_fields
from curate.driver.manifest import checked
from curate.fetch.preflight import check_ready
from curate.planning.plan import Plan
from curate.stages.blocklist import BlocklistStage
from curate.stages.eval_overlap import EvalDistanceStage, EvalSimilarityStage
from curate.storage.backend import Disk, Storage

_LEAST = 0.02  # of the input's bytes: facts, decisions and thumbnails take about as much
_WORTH_A_WARNING = 1_000_000_000  # bytes of input


def check_before_reading(plan: Plan, shards: Shards, out: Storage) -> list[str]:
    """Check all that a run needs beside its input, but sets and lists, which are read next; return warnings.

    Raises RecipeError, ModelError, InputError (fields that are not in the input, no contact for fetching), DiskFull.
    """
    checked(plan)
    check_fields(plan, shards)
    check_weights(plan)
    if plan.fetches:
        check_ready(plan.recipe.policy)
    room = check_room(out, 0 if plan.fetches else shards.bytes())
    return [] if room is None else [room]


def check_weights(plan: Plan) -> None:
    """Raise ModelError where weights of a plan's models are neither on this machine nor can be fetched."""
    from curate.models import weights

    for _, _, spec in plan.models():
        if spec.startswith("open_clip:"):
            weights.check_weights(spec)


def check_lists(plan: Plan, cache: Path) -> None:
    """Raise InputError where an evaluation set or a block list is not there or cannot be read; sets are not read to their end."""
    from curate.stages.evalsets import members

    for stage in plan.stages():
        if isinstance(stage, BlocklistStage):
            stage.resolved(cache)
        elif isinstance(stage, EvalSimilarityStage | EvalDistanceStage):
            for ref in stage.sets:
                if next(members(ref.path), None) is None:
                    raise InputError(f"evaluation set {ref.path}: no images in it")


def check_room(out: Storage, needed: int) -> str | None:
    """Return a warning where the disk of OUT has less room than the input, of `needed` bytes, has images.

    Raises DiskFull where it cannot even hold the facts.
    """
    if not isinstance(out.own, Disk):
        return None
    place = next(folder for folder in (Path(out.own.root), *Path(out.own.root).parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < _LEAST * needed:
        raise DiskFull(
            f"no space left for {out.own.root}: {free / 1e9:,.2f} GB are free, and the input has {needed / 1e9:,.2f} GB"
        )
    if free < needed and needed >= _WORTH_A_WARNING:
        return f"{out.own.root}: {free / 1e9:,.0f} GB are free, and the input has {needed / 1e9:,.0f} GB: what is kept must fit"
    return None
