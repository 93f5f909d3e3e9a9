"""What is said of a run beside its bytes: recipe, versions, models, input, and what each filter dropped."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import curate
from curate.counts import Lookup
from curate.plan import Plan, provider_key
from curate.shards import Shards


def checked(plan: Plan) -> list[dict[str, str | None]]:
    """Return stage, kind, spec, revision and sha256 of every model of a plan. Raises ModelError for one that cannot be had."""
    from curate.models.checks import check

    found = [(stage, kind, check(kind, spec)) for stage, kind, spec in plan.models()]
    return [
        {"stage": stage, "kind": kind, "spec": facts.spec, "revision": facts.revision, "sha256": facts.sha256}
        for stage, kind, facts in found
    ]


def described(plan: Plan, shards: Shards, lookups: dict[str, Lookup], warnings: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says of a run before anything is counted."""
    return {
        "recipe": {**plan.recipe.resolved(), "about": plan.recipe.about, "source": plan.recipe.source},
        "recipe_hash": plan.recipe.digest(),
        "versions": versions(),
        "stages": {stage.name: provider_key(stage) for stage in plan.stages()},
        "input": {
            "shards": len(shards),
            "bytes": shards.bytes(),
            "fingerprint": shards.digest,
        },
        "filters": [step.name for step in plan.steps],
        "about": {step.name: step.rule.about for step in plan.steps},
        "marks": {step.name: list(step.rule.marks()) for step in plan.steps},
        "models": checked(plan),
        "warnings": list(warnings),
        "counts": {fact: {"folder": lookup.name, "floor": lookup.floor} for fact, lookup in lookups.items()},
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


def attrition(plan: Plan, verdicts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each filter dropped, in texts (one a record without captions), from the marks of the judged shards."""

    def total(name: str) -> int:
        return sum(mark["tally"].get(name, 0) for mark in verdicts.values())

    texts = left = total("texts")
    rows = []
    for step in plan.steps:
        dropped = total(f"dropped:{step.name}")
        rows.append({"filter": step.name, "seen": left, "dropped": dropped, "left": left - dropped})
        left -= dropped
    return {"records": total("records"), "texts": texts, "kept": total("kept"), "kept_texts": left, "attrition": rows}
