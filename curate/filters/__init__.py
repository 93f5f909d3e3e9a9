"""The rules, one file each: the file's stem is the YAML key, the reason in the decisions and the row in the report.

The rule files lie in the top-level folder `filters/` of the repository and are installed into this folder: the package's
path is this folder where they are installed, and that one in a checkout. A top-level import package of that name would
clash with others on PyPI. A rule knows facts and nothing else: no engine, no model, no store.
"""

from __future__ import annotations

import importlib
import pkgutil
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


def names() -> list[str]:
    """Return the names of all filters, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Filter]:
    """Return the filter class of filters/NAME.py. Raises KeyError when there is none."""
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f"curate.filters.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__
    )
