"""Recipes: YAML with ordered filters and their parameters, checked at load, with file, line and the nearest known name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import yaml

from curate import filters
from curate.core.contracts import Filter
from curate.core.errors import RecipeError, near
from curate.core.facts import FACTS
from curate.fetch.policy import FetchPolicy
from curate.planning import plugins
from curate.planning.plugins import Plugin
from curate.planning.providers import judges_pictures
from curate.planning.recipe import Output, Recipe
from curate.stages.caption import CaptionStage

MODELS = {
    "mini": {"captions.model": "mini", "caption_match.matcher": "mini", "clip_similarity.embedder": "mini"},
    "blip-base": {
        "captions.model": "hf:Salesforce/blip-image-captioning-base",
        "caption_match.matcher": "hf:Salesforce/blip-itm-base-coco",
        "clip_similarity.embedder": "open_clip:ViT-B-32/openai",
    },
    "blip-large": {
        "captions.model": "hf:Salesforce/blip-image-captioning-large",
        "caption_match.matcher": "hf:Salesforce/blip-itm-large-coco",
        "clip_similarity.embedder": "open_clip:ViT-L-14/openai",
    },
}
"""Sets of models by name: `--models` puts them into a recipe's captioner, matcher and embedder."""

_MAX_BYTES = 1 << 20

# what YAML's constructors raise for values that their tag or pattern cannot mean: 2026-13-45, !!bool maybe, [[[[...
_NO_VALUE = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


def folder() -> Traversable:
    """Return the folder of the recipes that come with curate: in the package once installed, beside it in a checkout.

    Either may be in a zip file.
    """
    package = cast(Path, files("curate"))  # or a zipfile.Path, which has a parent too
    packaged = package / "pipelines"
    return packaged if packaged.is_dir() else package.parent / "pipelines"


def names() -> list[str]:
    """Return the names of the recipes that come with curate."""
    return sorted(path.name.removesuffix(".yaml") for path in folder().iterdir() if path.name.endswith(".yaml"))


def load(name_or_path: str, overrides: Sequence[str] = (), models: str | None = None, given: Sequence[Plugin] = ()) -> Recipe:
    """Load a recipe by name or path; apply a set of MODELS, then FILTER.PARAM=VALUE. Raises RecipeError, in one line.

    `given` are plug-ins beside those that the recipe names.
    """
    plugins.load_installed()
    path: Traversable = folder() / f"{name_or_path}.yaml" if name_or_path in names() else Path(name_or_path)
    if not _is_file(path):
        known = f"neither a file nor one of {', '.join(names())}{near(name_or_path, names())}"
        raise RecipeError(f"no recipe {name_or_path!r}: {known}")
    if isinstance(path, Path) and path.stat().st_size > _MAX_BYTES:
        raise RecipeError(f"{path}: larger than 1 MiB, not a recipe")
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8: {error.reason}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    return _Loader(str(path), Path(path.name).stem, source).recipe(overrides, models, given)


Values = dict[str, tuple[str, Any]]
"""Parameters of one owner as written: where (file and line, or the --set), and the value."""

_SECTIONS = ("captions", "fetch", "output")
_KEYS = ("about", "plugins", "filters", *_SECTIONS)


def _model_set(name: str | None, rules: dict[str, Values], others: dict[str, Values]) -> list[str]:
    """Return a set of MODELS as overrides of this recipe. Raises RecipeError."""
    if name is None:
        return []
    if name not in MODELS:
        raise RecipeError(f"--models {name}: known are {', '.join(MODELS)}{near(name, MODELS)}")
    chosen = [f"{place}={spec}" for place, spec in MODELS[name].items() if place.partition(".")[0] in (*rules, *others)]
    if not chosen:
        raise RecipeError(f"--models {name}: this recipe has no captions, caption_match or clip_similarity")
    return chosen


def _reader_of(fact: str) -> str:
    """Return what a message adds where a fact is named in place of a filter; nothing for any other name."""
    if fact not in FACTS:
        return ""
    readers = [name for name in filters.names() if fact in filters.facts_of(name)]
    return f": it is a fact, which {' and '.join([*readers, 'the expressions of sql'])} read"


class _Loader:
    """Turns YAML nodes, which know their lines, into filters."""

    def __init__(self, path: str, name: str, source: str) -> None:
        self.path, self.name, self.source = path, name, source

    def recipe(self, overrides: Sequence[str], models: str | None, given: Sequence[Plugin]) -> Recipe:
        top = self._mapping(self._parse(), "a recipe")
        for key, (line, _) in top.items():
            if key not in _KEYS:
                raise self._error(line, f"unknown key {key!r}{near(key, _KEYS)}")
        if "filters" not in top:
            raise self._error(1, "a recipe needs filters")
        loaded = tuple(dict.fromkeys([*self._plugins(top), *given]))
        for plugin in loaded:
            plugin.load()
        about = str(self._value(top["about"][1])) if "about" in top else ""
        rules = {}
        for key, (line, node) in self._mapping(top["filters"][1], "filters").items():
            if key not in filters.names():
                raise self._error(line, f"unknown filter {key!r}{_reader_of(key) or near(key, filters.names())}")
            rules[key] = self._parameters(node, key)
        others: dict[str, Values] = {key: self._parameters(top[key][1], key) for key in _SECTIONS if key in top}
        self.override(rules, others, [*_model_set(models, rules, others), *overrides])
        built = always_on({name: self.build(filters.load(name), name, values) for name, values in rules.items()})
        captions = self.build(CaptionStage, "captions", others["captions"]) if "captions" in others else None
        if captions is not None and not any(rule.per_text for rule in built.values()):
            raise self._error(top["captions"][0], "captions are written but no filter judges them: add caption_match")
        output = self.build(Output, "output", others.get("output", {}))
        policy = self.build(FetchPolicy, "fetch", others.get("fetch", {}))
        return Recipe(self.name, about, built, output, self.source, captions, policy, loaded)

    def _plugins(self, top: dict[str, tuple[int, yaml.Node]]) -> list[Plugin]:
        """Return the plug-ins that the recipe names: files inside its folder."""
        if "plugins" not in top:
            return []
        line, node = top["plugins"]
        names = self._value(node)
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise self._error(line, "plugins must be a list of Python files beside the recipe: [my_rules.py]")
        return plugins.beside(Path(self.path), names, f"{self.path}:{line}")

    def _parse(self) -> yaml.Node:
        try:
            for event in yaml.parse(self.source, yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    raise self._error(event.start_mark.line + 1 if event.start_mark else 1, "YAML aliases are not allowed")
            node = yaml.compose(self.source, yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise self._error(mark.line + 1 if mark else 1, f"not YAML: {_problem(error)}") from None
        except RecursionError:
            raise self._error(1, "nested too deeply for a recipe") from None
        if node is None:
            raise self._error(1, "the file is empty")
        return node

    def _mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[int, yaml.Node]]:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node.start_mark.line + 1, f"{what} must be a mapping of names to values")
        found: dict[str, tuple[int, yaml.Node]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(line, f"{what} must be a mapping of names to values, and a name is one word")
            if key.value in found:
                raise self._error(line, f"{key.value!r} is there twice")
            found[str(key.value)] = (line, value)
        return found

    def _parameters(self, node: yaml.Node, owner: str) -> Values:
        pairs = self._mapping(node, owner).items()
        return {key: (f"{self.path}:{line}", self._value(value)) for key, (line, value) in pairs}

    def _value(self, node: yaml.Node) -> Any:
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except _NO_VALUE as error:
            raise self._error(node.start_mark.line + 1, f"not a value: {_problem(error)}") from None

    def override(self, rules: dict[str, Values], others: dict[str, Values], overrides: Sequence[str]) -> None:
        """Apply --set: later ones win."""
        for text in overrides:
            owner, param, value = split_override(text)
            if owner in ("output", "fetch"):
                others.setdefault(owner, {})[param] = (_said(text), value)
            elif owner in others:
                others[owner][param] = (_said(text), value)
            elif owner in rules:
                rules[owner][param] = (_said(text), value)
            elif owner == "unreadable":
                rules[owner] = {param: (_said(text), value)}
            elif owner == "captions":
                raise RecipeError(f"{_said(text)}: this recipe writes no captions; give it a section 'captions:'")
            else:
                known = "is not in this recipe" if owner in filters.names() else "is not a filter"
                raise RecipeError(f"{_said(text)}: {owner!r} {known}{_reader_of(owner) or near(owner, rules)}")

    def build(self, kind: type[Any], owner: str, values: dict[str, tuple[str, Any]]) -> Any:
        known = {item.name: item for item in dataclasses.fields(kind)}
        checked = {}
        for name, (where, value) in values.items():
            if name not in known:
                raise RecipeError(f"{where}: {owner} has no parameter {name!r}{near(name, known)}")
            checked[name] = _typed(kind, name, value, f"{where}: {owner}.{name}")
        built = kind(**checked)
        try:
            built.check()
        except ValueError as error:
            places = [place for place, _ in values.values()] or [self.path]
            where = next((place for place in places if place.startswith("--set")), places[0])
            raise RecipeError(f"{where}: {owner}: {error}") from None
        return built

    def _error(self, line: int, message: str) -> RecipeError:
        return RecipeError(f"{self.path}:{line}: {message}")


def recorded(resolved: dict[str, Any], overrides: Sequence[str] = ()) -> dict[str, Filter]:
    """Return the filters of a manifest's recipe, with overrides applied and checked as at load. Raises RecipeError."""
    loader = _Loader("manifest.json", str(resolved["name"]), "")
    plugins.load_installed()
    _same_plugins(resolved.get("plugins", {}))
    rules: dict[str, Values] = {}
    for name in resolved["order"]:
        rules[name] = {key: ("manifest.json", value) for key, value in resolved["filters"][name].items()}
    changed = next((text for text in overrides if split_override(text)[0] in _SECTIONS), None)
    if changed is not None:
        raise RecipeError(f"{_said(changed)}: changes facts or output, not only verdicts; use curate run --set")
    loader.override(rules, {}, overrides)
    return {name: loader.build(filters.load(name), name, values) for name, values in rules.items()}


def _same_plugins(wanted: dict[str, str]) -> None:
    """Raise RecipeError unless the plug-ins of a manifest, by name and sha256, are loaded as they were."""
    for name, sha256 in wanted.items():
        if not plugins.is_loaded(sha256):
            raise RecipeError(f"this output was made with the plug-in {name} (sha256 {sha256[:12]}): name it with --plugin")


def split_override(text: str) -> tuple[str, str, Any]:
    """Split FILTER.PARAM=VALUE; the value is read as YAML. Raises RecipeError.

    >>> split_override("min_side.larger_than=256")
    ('min_side', 'larger_than', 256)
    """
    name, equals, value = text.partition("=")
    owner, dot, param = name.partition(".")
    if not (equals and dot and owner and param):
        raise RecipeError(f"{_said(text)}: must be FILTER.PARAM=VALUE, like min_side.larger_than=256")
    try:
        return owner.strip(), param.strip(), yaml.safe_load(value)
    except _NO_VALUE:
        return owner.strip(), param.strip(), value


def _typed(kind: type[Any], name: str, value: Any, where: str) -> Any:
    """Return `value` as the parameter's type, strictly (no '3' for 3); a lone or comma-separated string is a list."""
    import typing

    from pydantic import TypeAdapter, ValidationError

    annotation = typing.get_type_hints(kind)[name]
    if any(typing.get_origin(one) is tuple for one in (annotation, *typing.get_args(annotation))):
        value = [part for part in map(str.strip, value.split(",")) if part] if isinstance(value, str) else value
        value = tuple(value) if isinstance(value, list) else value
    try:
        found = TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        wanted = (annotation.__name__ if isinstance(annotation, type) else str(annotation)).replace("typing.", "")
        detail = error.errors()[0]["msg"]
        raise RecipeError(f"{where} must be {wanted}, not {_short(value)} ({detail[0].lower()}{detail[1:]})") from None
    if isinstance(found, int | float) and not (math.isfinite(found) and abs(found) < 1 << 63):  # Arrow compares with 64 bits
        raise RecipeError(f"{where} must be a number of at most 64 bits, not {_short(value)}")
    return found


def always_on(rules: dict[str, Filter]) -> dict[str, Filter]:
    """Return the filters with `unreadable` among them: before the first that works on the decoded image, else last."""
    if "unreadable" in rules:
        return rules
    from curate.filters.unreadable import Unreadable

    ordered: dict[str, Filter] = {}
    for name, rule in rules.items():
        if "unreadable" not in ordered and judges_pictures(rule):
            ordered["unreadable"] = Unreadable()
        ordered[name] = rule
    ordered.setdefault("unreadable", Unreadable())
    return ordered


def _is_file(path: Traversable) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _said(override: str) -> str:
    return f"--set {' '.join(override.splitlines())}"


def _problem(error: BaseException) -> str:
    return next(iter(str(getattr(error, "problem", None) or error).splitlines()), type(error).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
