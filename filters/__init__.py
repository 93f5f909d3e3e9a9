"""One filter, one file: the file's stem is the YAML key, the reason in the decisions and the row in the report."""

from __future__ import annotations

import importlib
import pkgutil

from curate.contracts import Filter


def names() -> list[str]:
    """Return the names of all filters, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Filter]:
    """Return the filter class of filters/NAME.py. Raises KeyError when there is none."""
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f"filters.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__
    )
