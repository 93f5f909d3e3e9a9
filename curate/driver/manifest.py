"""What is said of a run beside its bytes: recipe, versions, models, input, and what each filter dropped."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import curate
from curate.core.shards import Shards
from curate.counts.lookup import Lookup
from curate.planning.plan import Plan, provider_key


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
        "thresholds": {step.name: list(step.rule.thresholds()) for step in plan.steps},
        "models": checked(plan),
        "warnings": list(warnings),
        "counts": {fact: {"folder": lookup.name, "floor": lookup.floor} for fact, lookup in lookups.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions that decide bytes."""
    found = {"curate": curate.__version__, "python": platform.python_version()}
    for name in ("duckdb", "fasttext-community", "numpy", "onnxruntime", "pillow", "pyarrow", "simplejpeg", "torch", "xxhash"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class RunSummary:
    """What the marks of all blocks say together."""

    tally: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)  # index of a shard with records lost: why
    tars: dict[str, dict[str, Any]] = field(default_factory=dict)
    index: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, str] = field(default_factory=dict)

    def add(self, mark: Mapping[str, Any]) -> None:
        """Add the mark of a block."""
        for name, verdict in sorted(mark["shards"].items(), key=lambda item: int(item[0])):
            self.tally.update(verdict["tally"])
            self.decisions[f"{name}.parquet"] = verdict["decisions"]
            if verdict["error"]:
                self.broken[int(name)] = verdict["error"]
        self.tars.update(mark["tars"])
        self.index.update(mark["index"])


def attrition(plan: Plan, tally: Mapping[str, int]) -> dict[str, Any]:
    """Return what each filter dropped, in texts: one a record without captions."""
    left, rows = tally["texts"], []
    for step in plan.steps:
        dropped = tally.get(f"dropped:{step.name}", 0)
        rows.append({"filter": step.name, "seen": left, "dropped": dropped, "left": left - dropped})
        left -= dropped
    counted = {name: tally[name] for name in ("records", "texts", "kept")}
    return {**counted, "kept_texts": left, "attrition": rows}
