"""The table of models: what a spec in a recipe names, how it is loaded, and how it is checked before a run.

A model of your own is one entry, made known by `register` or by an entry point of the group `curate.models`:

    register(ModelEntry("my-embedder", ("embedder",), load=lambda request: MyEmbedder()))

    [project.entry-points."curate.models"]
    my-embedder = "my_package:ENTRY"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from curate.core.contracts import ModelKind
from curate.core.errors import ModelError, near
from curate.core.hashing import code_of
from curate.models.protocols import Compute, Sampling

GROUP = "curate.models"
"""Entry points of installed packages: each names a ModelEntry."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is loaded; sha256 is that of its weights where they are files of this machine."""

    spec: str
    revision: str | None = None
    sha256: str | None = None
    side: int | None = None  # pixels of a side of the pictures that it reads; None where it reads none, or takes any


@dataclass(frozen=True)
class ModelRequest:
    """What a loader receives: kind and spec; `sampling` is for captioners, `compute` for large models."""

    kind: ModelKind
    spec: str
    sampling: Sampling = Sampling()
    compute: Compute = Compute()


def _unchecked(_kind: ModelKind, spec: str) -> ModelFacts:
    return ModelFacts(spec)


@dataclass(frozen=True)
class ModelEntry:
    """A model, or a family of models that are loaded the same way.

    `load` returns an object that keeps the protocol of the requested kind (curate.models.protocols); it may raise
    ModelError, and ImportError for a missing package. `check` returns what is known without loading weights, and raises
    ModelError, in one line, where the model cannot be loaded. A text embedder is an embedder too: list only the former.
    """

    spec: str  # as recipes write it and as messages list it
    kinds: tuple[ModelKind, ...]
    load: Callable[[ModelRequest], Any]
    packages: tuple[str, ...] = ()  # modules that it imports
    matches: Callable[[str], bool] | None = None  # of a family: whether a spec names one of them; None: the spec itself
    check: Callable[[ModelKind, str], ModelFacts] = _unchecked
    install: str = 'pip install "curate-image-text[models]"'  # how its packages are installed

    def serves(self, kind: ModelKind) -> bool:
        """Return whether it can be loaded as this kind."""
        return kind in self.kinds or (kind == "embedder" and "text_embedder" in self.kinds)

    def names(self, spec: str) -> bool:
        """Return whether a spec in a recipe means this entry."""
        return spec == self.spec if self.matches is None else self.matches(spec)

    def missing(self, spec: str, package: str) -> ModelError:
        """Return the error of a package that is not installed."""
        return ModelError(f"{spec} needs the package {package}: {self.install}")


_REGISTERED: dict[str, ModelEntry] = {}


def register(entry: ModelEntry) -> None:
    """Make a model known in this process; an entry of the same spec is replaced. Raises ModelError for a built-in's spec."""
    if any(entry.spec == known.spec for known in _builtin()):
        raise ModelError(f"model {entry.spec!r} is built in and cannot be replaced")
    _REGISTERED[entry.spec] = entry


def known(kind: ModelKind) -> tuple[str, ...]:
    """Return the specs of a kind as messages list them; those of installed packages are included."""
    entries = (*_builtin(), *_REGISTERED.values(), *_installed())
    return tuple(dict.fromkeys(entry.spec for entry in entries if entry.serves(kind)))


def find(kind: ModelKind, spec: str) -> tuple[ModelEntry, ModelKind]:
    """Return the entry that a spec names, and the kind under which the entry loads it.

    Registered entries come first, then built-in ones; packages are searched for entry points only for a spec that neither
    has. Raises ModelError that lists the known specs.
    """
    for entries in (_REGISTERED.values, _builtin, _installed):
        for entry in entries():
            if entry.serves(kind) and entry.names(spec):
                return entry, "text_embedder" if kind == "embedder" and "text_embedder" in entry.kinds else kind
    specs = known(kind)
    if kind == "text_embedder" and spec in known("embedder"):
        raise ModelError(f"{spec} embeds images only: for texts too there are {', '.join(specs)}")
    raise ModelError(f"no {kind.replace('_', ' ')} {spec!r}: known are {', '.join(specs)}{near(spec, specs)}")


def load(request: ModelRequest) -> Any:
    """Return the model, loaded anew. Raises ModelError."""
    entry, kind = find(request.kind, request.spec)
    try:
        return entry.load(ModelRequest(kind, request.spec, request.sampling, request.compute))
    except ImportError as error:
        raise entry.missing(request.spec, error.name or str(error)) from error


def check(kind: ModelKind, spec: str) -> ModelFacts:
    """Return what is known of a model without loading its weights. Raises ModelError, in one line, if it cannot be loaded."""
    entry, kind = find(kind, spec)
    for package in entry.packages:
        if find_spec(package) is None:
            raise entry.missing(spec, package)
    try:
        facts = entry.check(kind, spec)
        return facts if facts.sha256 else replace(facts, sha256=code_of(entry.load))  # of a plug-in at least its code
    except ImportError as error:
        raise entry.missing(spec, error.name or str(error)) from error


def _builtin() -> tuple[ModelEntry, ...]:
    from curate.models.builtin import BUILTIN

    return BUILTIN


@cache
def _installed() -> tuple[ModelEntry, ...]:
    """Return the entries of installed packages. Raises ModelError where one cannot be imported, or is something else."""
    found = []
    for point in entry_points(group=GROUP):
        try:
            entry = point.load()
        except Exception as error:
            raise ModelError(f"entry point {point.name} of {GROUP} ({point.value}): {error!r}") from error
        if not isinstance(entry, ModelEntry):
            raise ModelError(f"entry point {point.name} of {GROUP} ({point.value}) is no ModelEntry")
        found.append(entry)
    return tuple(found)
