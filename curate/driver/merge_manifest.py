"""The manifest of a merged output: what its sources say, joined."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curate.driver.manifest import versions
from curate.driver.merge_sources import Finished
from curate.planning.recipe import Output

_OF_VERDICTS = ("order", "filters", "captions", "plugins")
"""Parts of a recipe that decide what is kept."""


def one_recipe(outs: Sequence[Finished]) -> bool:
    """Return whether all outputs have the same filters with the same parameters."""
    return all(_verdicts(out) == _verdicts(outs[0]) for out in outs)


def _verdicts(out: Finished) -> dict[str, Any]:
    return {name: out.manifest["recipe"].get(name) for name in _OF_VERDICTS}


def described(outs: Sequence[Finished]) -> dict[str, Any]:
    """Return the part of a manifest that is known before anything is merged."""
    manifests = [out.manifest for out in outs]
    filters = list(dict.fromkeys(name for one in manifests for name in one["filters"]))
    recipe = dict(manifests[0]["recipe"]) if one_recipe(outs) else _recipe(manifests, filters)
    recipe["output"] = _output([one["recipe"]["output"] for one in manifests])
    return {
        "recipe": recipe,
        "recipe_hash": _joined(one["recipe_hash"] for one in manifests),
        "mixed_recipes": not one_recipe(outs),
        "merged_from": [_source(out) for out in outs],
        "versions": _united([*(one["versions"] for one in manifests), versions()]),
        "stages": _first(one["stages"] for one in manifests),
        "input": {
            "shards": sum(len(out.shards) for out in outs),
            "bytes": sum(out.shards.bytes() for out in outs),
            "counted_only": 0,
        },
        "filters": filters,
        "rules": _first(one["rules"] for one in manifests),
        "thresholds": _thresholds(manifests, filters),
        "models": _different(model for one in manifests for model in one["models"]),
        "warnings": list(dict.fromkeys(warning for one in manifests for warning in one["warnings"])),
        "notes": list(dict.fromkeys(note for one in manifests for note in one.get("notes", ()))),
        "counts": _floors(manifests),
        "failed_shards": [shard for one in manifests for shard in one["failed_shards"]],
        "partial_shards": [shard for one in manifests for shard in one["partial_shards"]],
    }


def _source(out: Finished) -> dict[str, Any]:
    names = ("run", "recipe_hash", "records", "kept")
    return {"out": out.out.root, "recipe": out.manifest["recipe"]["name"], **{name: out.manifest[name] for name in names}}


def _recipe(manifests: Sequence[Mapping[str, Any]], filters: Sequence[str]) -> dict[str, Any]:
    """Return recipes as one to look at: parameters that differ are joined, so that nothing can be run or computed by it."""
    recipes = [one["recipe"] for one in manifests]
    rules = {name: _united([recipe["filters"][name] for recipe in recipes if name in recipe["filters"]]) for name in filters}
    name, source = (_joined(recipe[part] for recipe in recipes) for part in ("name", "source"))
    return {"name": name, "about": "", "source": source, "order": list(filters), "filters": rules}


def _output(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return output settings as one; a setting that some do not say has its default there."""
    default = dataclasses.asdict(Output())
    names = dict.fromkeys(name for one in settings for name in one)
    return _united([{name: one.get(name, default.get(name)) for name in names} for one in settings])


def _united(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mappings as one: lists that differ are united, other values joined.

    >>> _united([{"below": 3, "lists": ["a"]}, {"below": 4, "lists": ["b", "a"]}])
    {'below': '3 or 4', 'lists': ['a', 'b']}
    """
    names = dict.fromkeys(name for one in values for name in one)
    return {name: _together(_different(one[name] for one in values if name in one)) for name in names}


def _together(values: list[Any]) -> Any:
    """Return different values of one parameter as one to look at."""
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, list) for value in values):
        return _different(item for value in values for item in value)
    return _joined(values)


def _joined(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(map(str, values)))


def _different(values: Iterable[Any]) -> list[Any]:
    """Return JSON values without repeats."""
    return list({json.dumps(value, sort_keys=True): value for value in reversed(list(values))}.values())[::-1]


def _first(values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mappings as one; of a name that several have, the value of the first."""
    return {name: value for one in reversed(list(values)) for name, value in one.items()}


def _thresholds(manifests: Sequence[Mapping[str, Any]], filters: Sequence[str]) -> dict[str, list[Any]]:
    return {name: _different(value for one in manifests for value in one["thresholds"].get(name, ())) for name in filters}


def _floors(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return from which number on counts are recorded in every output; the counts themselves are not merged."""
    found: dict[str, dict[str, int]] = {}
    for one in manifests:
        for fact, count in one["counts"].items():
            found[fact] = {"floor": max(count["floor"], found.get(fact, count)["floor"])}
    return found
