"""The manifest of a run: recipe, versions, models, input, what each filter dropped, and the lists of files."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from curate.core.shards import Shards
from curate.core.verdicts import NOT_FILTERS
from curate.core.version import __version__
from curate.counts.lookup import Lookup
from curate.passes import problems
from curate.planning.captions import of_captions
from curate.planning.plan import Plan
from curate.report import rules
from curate.stages import language
from curate.storage.file_lists import LISTED, SIZES, WIDS_INDEX, FileLists, listed, unlisted, writing_lists
from curate.storage.marks import File, Mark
from curate.storage.samples import is_tar
from curate.storage.store import Store

_MODE = "mode:"
"""How the names of counts of samples by mode begin, in a tally."""


def checked(plan: Plan) -> list[dict[str, str | None]]:
    """Return stage, kind, spec, revision and sha256 of every model of a plan. Raises ModelError if one is not available."""
    from curate.models.checks import check

    found = [(stage, kind, check(kind, spec)) for stage, kind, spec in plan.models()]
    models = [
        {"stage": stage, "kind": kind, "spec": facts.spec, "revision": facts.revision, "sha256": facts.sha256}
        for stage, kind, facts in found
    ]
    return [*models, *(language.model_facts() for stage in plan.stages() if isinstance(stage, language.LanguageStage))]


def described(plan: Plan, shards: Shards, lookups: dict[str, Lookup], warnings: Sequence[str]) -> dict[str, Any]:
    """Return the part of a manifest that is known before the run."""
    return {
        "recipe": {**plan.recipe.resolved(), "about": plan.recipe.about, "source": plan.recipe.source},
        "recipe_hash": plan.recipe.digest(),
        "versions": versions(),
        "stages": plan.keys,
        "input": {
            "shards": len(shards),
            "bytes": shards.bytes(),
            "fingerprint": shards.digest,
        },
        "filters": [step.name for step in plan.steps],
        "rules": rules.described(plan.recipe.filters, [step.name for step in of_captions(plan)]),
        "thresholds": {step.name: list(step.rule.thresholds()) for step in plan.steps},
        "models": checked(plan),
        "warnings": list(warnings),
        "notes": plan.notes(),
        "counts": {fact: {"folder": lookup.name, "floor": lookup.floor} for fact, lookup in lookups.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions of curate, Python and the packages that affect output bytes."""
    found = {"curate": __version__, "python": platform.python_version()}
    for name in ("duckdb", "fasttext-community", "numpy", "onnxruntime", "pillow", "pyarrow", "simplejpeg", "torch", "xxhash"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class RunSummary:
    """Sums over the marks of all blocks, and totals of their files (see FileLists.described)."""

    tally: Mapping[str, int]
    broken: Mapping[int, str]  # why records were lost, by index of the shard
    files: Mapping[str, Mapping[str, Any]]


def write_lists(store: Store, marks: Iterable[Mark]) -> RunSummary:
    """Write the lists of a run's files, and what trainers look for, from the marks of its blocks; remove files on no list.

    These are of shards that have failed since, or of blocks with other boundaries.
    """
    tally: Counter[str] = Counter()
    broken: dict[int, str] = {}
    with writing_lists(store) as lists:
        for mark in marks:
            for index, verdict in sorted((int(name), part) for name, part in mark.parts.items()):
                for name, count in verdict.counts.items():
                    tally[name] += count
                _add(lists, verdict)
                if verdict.error:
                    broken[index] = verdict.error
            for mode, count in mark.counts.items():
                tally[f"{_MODE}{mode}"] += count
            _add(lists, mark)
    out = store.storage
    for folder in LISTED:
        out.remove([f"{folder}/{name}" for name in unlisted(out, folder)])
    out.remove([f"thumbs/{name}" for name in unlisted(out, "thumbs", "decisions")])
    _write_sizes(store)
    return RunSummary(tally, broken, lists.described())


def _add(lists: FileLists, mark: Mark) -> None:
    for name, file in mark.files.items():
        lists.add(name, file)


def _write_sizes(store: Store) -> None:
    """Write what trainers look for beside the tars: open_clip's sizes.json (samples of each file), and an index for wids.

    wids reads tars alone: parquet files have none.
    """
    sizes = (f" {json.dumps(name)}: {file.samples}" for name, file in listed(store.storage, "shards"))
    _write_json_lines(store, SIZES, "{", sizes, "}")
    if not all(is_tar(name) for name, _ in listed(store.storage, "shards")):
        store.storage.remove([WIDS_INDEX])
        return
    tars = (f" {json.dumps(_of_wids(name, file))}" for name, file in listed(store.storage, "shards"))
    _write_json_lines(store, WIDS_INDEX, '{"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [', tars, "]}")


def _of_wids(name: str, file: File) -> dict[str, Any]:
    return {"url": name, "nsamples": file.samples, "filesize": file.bytes}


def _write_json_lines(store: Store, name: str, head: str, lines: Iterator[str], tail: str) -> None:
    """Write JSON of which each line but the first and the last is an entry, however many there are."""
    with store.writing(name) as path, path.open("w", encoding="utf-8") as file:
        first = next(lines, None)
        file.write(head if first is None else f"{head}\n{first}")
        file.writelines(f",\n{line}" for line in lines)
        file.write(f"{tail}\n" if first is None else f"\n{tail}\n")


def attrition(filters: Iterable[str], tally: Mapping[str, int]) -> dict[str, Any]:
    """Return how many texts each filter dropped, and how many something else. Without captions, a record has one text.

    `image_modes` counts samples whose image loaders may show otherwise than the models saw it (curate.images.mode).
    """
    left, rows = tally["texts"], []
    for name in (*filters, *(reason for reason in NOT_FILTERS if f"dropped:{reason}" in tally)):
        dropped = tally.get(f"dropped:{name}", 0)
        rows.append({"filter": name, "seen": left, "dropped": dropped, "left": left - dropped})
        left -= dropped
    counted = {name: tally[name] for name in ("records", "texts", "kept")}
    modes = {name.removeprefix(_MODE): count for name, count in sorted(tally.items()) if name.startswith(_MODE)}
    found = {"attrition": rows, "problems": problems.described(tally), "image_modes": modes}
    return {**counted, "kept_texts": left, **found}
