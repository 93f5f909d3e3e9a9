"""Plug-ins: Python files of a user with filters, stages, counts, models or sources, and installed packages that offer such.

A file is code that the user names, in the recipe's `plugins:` (files in the recipe's folder) or with --plugin; it runs as
the user. Its text travels with every task, so that the workers of a cluster need no copy of the file, and its sha256 is part
of the run's identity: whatever it computed before a change is computed again.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from curate import filters
from curate.core.contracts import Filter, Stage
from curate.core.errors import ModelError, RecipeError
from curate.core.facts import declare
from curate.core.hashing import ORIGIN
from curate.models import registry as models
from curate.models.registry import ModelEntry
from curate.sources import registry as sources
from curate.sources.source import Source

_PREFIX = "curate_plugin_"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Plugin:
    """One file: its path as the user named it, and its text."""

    path: str
    source: str

    @cached_property
    def sha256(self) -> str:
        """Return the sha256 of the text, hex."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Return the file's name."""
        return Path(self.path).name

    @property
    def module(self) -> str:
        """Return the name of its module: another text is another module."""
        return f"{_PREFIX}{re.sub(r'[^a-zA-Z0-9_]', '_', Path(self.path).stem)}_{self.sha256[:12]}"

    def load(self) -> ModuleType:
        """Execute the file, once a process, and register what it defines. Raises RecipeError with file and line."""
        if self.module in sys.modules:
            self._enter(sys.modules[self.module])  # another text of the same file may have come between
            return sys.modules[self.module]
        made = ModuleType(self.module, f"Plug-in {self.path}.")
        made.__file__ = self.path
        setattr(made, ORIGIN, self.sha256)
        # tracebacks, and inspect, find the text on every machine
        linecache.cache[self.path] = (len(self.source), None, self.source.splitlines(keepends=True), self.path)
        sys.modules[self.module] = made  # dataclasses look their module up while it runs
        try:
            exec(compile(self.source, self.path, "exec"), made.__dict__)
            self._enter(made)
        except RecipeError:
            del sys.modules[self.module]
            raise
        except Exception as error:
            del sys.modules[self.module]
            raise RecipeError(f"{self.path}:{self._line(error)}: {type(error).__name__}: {error}") from error
        return made

    def _line(self, error: Exception) -> int:
        if isinstance(error, SyntaxError) and error.filename == self.path:
            return error.lineno or 1
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.path]
        return next((line for line in reversed(lines) if line), 1)

    def _enter(self, made: ModuleType) -> None:
        for name, value in list(vars(made).items()):
            try:
                if isinstance(value, type) and value.__module__ == self.module:
                    _enter_class(value)
                elif isinstance(value, Source) and value.open.__module__ == self.module:
                    sources.register(value)
                elif isinstance(value, ModelEntry) and value.load.__module__ == self.module:
                    models.register(value)
            except (ValueError, ModelError) as error:
                raise RecipeError(f"{self.path}:{self._line_of(name)}: {error}") from None

    def _line_of(self, name: str) -> int:
        found = re.search(rf"^(class )?{name}\b", self.source, re.MULTILINE)
        return self.source.count("\n", 0, found.start()) + 1 if found else 1


def _enter_class(value: type) -> None:
    if issubclass(value, Filter):
        filters.register(filters.name_of(value), value)
    elif issubclass(value, Stage):
        declare(value.declared_facts(), value)


def is_loaded(sha256: str) -> bool:
    """Return whether the plug-in whose text has that sha256 is loaded, whatever its file is called."""
    return any(name.startswith(_PREFIX) and getattr(made, ORIGIN, None) == sha256 for name, made in list(sys.modules.items()))


def read(path: Path, named: str | None = None) -> Plugin:
    """Return the plug-in in a file; `named` is how the user wrote its path. Raises RecipeError when it cannot be read."""
    shown = named or str(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{shown}: larger than 1 MiB, not a plug-in")
        return Plugin(shown, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"plug-in {shown}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"plug-in {shown}: not UTF-8: {error.reason}") from None


def given(paths: Iterable[str | os.PathLike[str]]) -> list[Plugin]:
    """Return the plug-ins in files that the user named outside of a recipe. Raises RecipeError."""
    return [read(Path(path), str(path)) for path in paths]


def beside(recipe: Path, names: Sequence[str], where: str) -> list[Plugin]:
    """Return the plug-ins that a recipe names, by paths inside its folder. Raises RecipeError for any other path."""
    folder, found = recipe.resolve().parent, []
    for name in names:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder) or Path(name).is_absolute():
            raise RecipeError(f"{where}: plug-in {name!r} is outside the recipe's folder; name it with --plugin instead")
        found.append(read(path, name))
    return found


class Carried:
    """A task together with the plug-ins that define its classes: they are loaded before the task is unpickled."""

    def __init__(self, task: Callable[[Any], Any], plugins: tuple[Plugin, ...]) -> None:
        self.task, self.plugins = task, plugins

    def __call__(self, item: Any) -> Any:
        """Run the task."""
        return self.task(item)

    def __reduce__(self) -> tuple[Callable[..., Carried], tuple[bytes, tuple[Plugin, ...]]]:
        """Pickle the task as bytes, to be unpickled after the plug-ins are loaded."""
        return _unpacked, (pickle.dumps(self.task), self.plugins)


def _unpacked(task: bytes, plugins: tuple[Plugin, ...]) -> Carried:
    for plugin in plugins:
        plugin.load()
    return Carried(pickle.loads(task), plugins)


def carried(task: Callable[[Any], Any], plugins: Iterable[Plugin]) -> Callable[[Any], Any]:
    """Return a task that loads the plug-ins where it is unpickled; the task itself if there are none."""
    brought = tuple(plugins)
    return Carried(task, brought) if brought else task


def load_installed() -> None:
    """Import the filters and stages of installed packages (entry-point groups curate.filters, curate.stages), once a process.

    Raises RecipeError where one cannot be imported. (curate.models and curate.sources are looked up by their registries.)
    """
    from importlib.metadata import entry_points

    if _installed_seen:
        return
    for group, kind in (("curate.filters", Filter), ("curate.stages", Stage)):
        for entry in entry_points(group=group):
            try:
                value = entry.load()
                if not (isinstance(value, type) and issubclass(value, kind)):
                    raise TypeError(f"{entry.value} is not a {kind.__name__}")
                if issubclass(value, Filter):
                    filters.register(entry.name, value)
            except Exception as error:
                raise RecipeError(f"{group}: {entry.name} of {entry.value}: {type(error).__name__}: {error}") from error
    _installed_seen.append(True)


_installed_seen: list[bool] = []
