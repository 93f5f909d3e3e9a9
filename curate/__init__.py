"""Web-scale image-text curation: columns are facts, filters are policy, runners move shards.

The names below are the public API, for programs and plug-ins; everything else may move. They are imported when they are used,
so that `import curate` costs nothing.
"""

from curate.core.version import __version__

_API = {
    "curate.api": ("Sample", "Settings", "decisions", "plan", "run", "samples", "what_if"),
    "curate.core.counting": ("CorpusCount",),
    "curate.driver.options": ("RunOptions",),
    "curate.core.errors": ("CurateError",),
    "curate.models.registry": ("ModelEntry",),
    "curate.sources.source": ("Source",),
    "curate.core.contracts": ("Filter", "Needs", "Stage", "setting", "threshold"),
    "curate.core.facts": ("Fact",),
    "curate.stages.pixels": ("pixels_of",),
}
_PLACES = {name: module for module, names in _API.items() for name in names}

__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> object:
    """Import a name of the API."""
    if name not in _PLACES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """List the API."""
    return __all__
