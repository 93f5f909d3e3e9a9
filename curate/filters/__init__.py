"""The rules, one file each: the file's stem is the YAML key, the reason in the decisions and the row in the report.

The rule files lie in the top-level folder `filters/` of the repository and are installed into this folder: the package's
path is this folder where they are installed, and that one in a checkout. A top-level import package of that name would
clash with others on PyPI. A rule knows facts and nothing else: no engine, no model, no store.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from curate import counts, stages
from curate.core.contracts import Filter

for _package in (stages, counts):  # whatever declares facts: rules read them by name
    for _module in pkgutil.iter_modules(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)


def _installed() -> bool:
    return any(pkgutil.iter_modules(__path__))


if not _installed():
    __path__.append(str(Path(__file__).parents[2] / "filters"))


_registered: dict[str, type[Filter]] = {}
"""Filters from elsewhere: plug-in files and installed packages."""


def register(name: str, rule: type[Filter]) -> None:
    """Enter a filter from elsewhere under its YAML key. Raises ValueError for the name of another one, or one without facts."""
    known = _registered.get(name)
    if name in _own() or (known is not None and known.__module__.rpartition("_")[0] != rule.__module__.rpartition("_")[0]):
        raise ValueError(f"there is a filter {name!r} already")
    _registered[name] = rule


def name_of(rule: type[Filter]) -> str:
    """Return the YAML key of a filter class: its name in snake case.

    >>> name_of(type("MinSharpness", (), {}))
    'min_sharpness'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", rule.__name__).lower()


def _own() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def names() -> list[str]:
    """Return the names of all filters, sorted."""
    return sorted({*_own(), *_registered})


def facts_of(name: str) -> tuple[str, ...]:
    """Return the facts that a filter reads, with its defaults. Raises KeyError when there is no such filter."""
    return tuple(load(name)().reads())


def load(name: str) -> type[Filter]:
    """Return the filter class of filters/NAME.py, or the one that was registered. Raises KeyError when there is none."""
    if name in _registered:
        return _registered[name]
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f"curate.filters.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__
    )
