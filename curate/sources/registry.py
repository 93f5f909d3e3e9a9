"""Every source by kind and by suffix: the built-in ones, and those of plug-ins.

A plug-in calls `register`, or declares an entry point of the group `curate.sources` that names a Source. Entry points are
loaded when a file or a shard is of no known kind, so nobody else pays for looking them up.
"""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

from curate.core.errors import InputError
from curate.sources.source import OpenShard, Source, shard_of

GROUP = "curate.sources"
"""The entry point group of plug-ins."""

_added: dict[str, Source] = {}


@cache
def _built_in() -> dict[str, Source]:
    """Return the sources of this package by kind. Their modules import the libraries of a format only when it is read."""
    from curate.sources import folder
    from curate.sources.tables import address_list, arrow, csv, json_file, jsonl, parquet
    from curate.sources.tar import source as tar
    from curate.sources.webarchive import archive

    modules = (tar, parquet, arrow, csv, jsonl, json_file, address_list, archive, folder)
    return {module.SOURCE.kind: module.SOURCE for module in modules}


def register(source: Source) -> None:
    """Add a source. Registering the same one again, from a module that was loaded twice, replaces it.

    Raises ValueError when its kind or one of its suffixes belongs to another source, or a suffix is not like ".tar".
    """
    for suffix in source.suffixes:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ValueError(f"source {source.kind!r}: suffix {suffix!r} must start with a dot and be in lower case")
    for other in _known():
        if _origin(other) == _origin(source):
            continue
        if other.kind == source.kind:
            raise ValueError(f"there are two sources of kind {source.kind!r}")
        if common := sorted({*other.suffixes} & {*source.suffixes}):
            raise ValueError(f"sources {other.kind!r} and {source.kind!r} both read {', '.join(common)}")
    _added[source.kind] = source
    _by_suffix.cache_clear()


def unregister(kind: str) -> None:
    """Remove a source that was registered. Raises KeyError when there is none of this kind."""
    del _added[kind]
    _by_suffix.cache_clear()


def source_of(url: str) -> Source | None:
    """Return the source whose suffix the name of a file ends with; None when there is none.

    >>> [found.kind for found in map(source_of, ("s3://b/0.TAR", "a.b.warc.gz", "t.tsv")) if found]
    ['tar', 'archive', 'csv']
    >>> source_of("notes.md") is None
    True
    """
    name = posixpath.basename(url).lower()
    if (found := _fitting(name)) is None and _plug_ins():
        return _fitting(name)
    return found


def source(kind: str) -> Source:
    """Return the source of a kind. Raises InputError when it is unknown: a plug-in that is not installed here."""
    found = _built_in().get(kind) or _added.get(kind)
    if found is None:
        _plug_ins()
        found = _added.get(kind)
    if found is None:
        raise InputError(f"no source of kind {kind!r} here; is the package that provides it installed?")
    return found


def suffixes() -> list[str]:
    """Return the suffixes of all sources that are loaded, sorted."""
    return sorted(_by_suffix())


def _known() -> Iterator[Source]:
    yield from _built_in().values()
    yield from _added.values()


@cache
def _by_suffix() -> dict[str, Source]:
    return {suffix: one for one in _known() for suffix in one.suffixes}


def _fitting(name: str) -> Source | None:
    """Return the source with the longest suffix of a name in lower case; the stem is not empty."""
    table, dot = _by_suffix(), name.find(".", 1)
    while dot > 0:
        if (found := table.get(name[dot:])) is not None:
            return found
        dot = name.find(".", dot + 1)
    return None


@cache
def _plug_ins() -> int:
    """Register the sources of installed packages, once; return how many. Raises InputError when one cannot be loaded."""
    points = entry_points(group=GROUP)
    for point in points:
        try:
            found = point.load()
            if not isinstance(found, Source):
                raise TypeError(f"{point.value} is no Source")
            register(found)
        except Exception as error:
            raise InputError(f"the plug-in {point.name!r} ({GROUP}) cannot be loaded: {error}") from error
    return len(points)


def _origin(one: Source) -> tuple[str, str | None, str]:
    file = getattr(sys.modules.get(one.open.__module__), "__file__", None)  # a plug-in's module is named by its text too
    return one.kind, file, one.open.__qualname__


__all__ = ["GROUP", "OpenShard", "Source", "register", "shard_of", "source", "source_of", "suffixes", "unregister"]
