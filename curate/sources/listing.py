"""From inputs (files, globs, folders, URLs) to shards. Knows no file format but the layout of a folder of images."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import xxhash

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError
from curate.core.shards import Shards
from curate.sources.fields import check_named
from curate.sources.registry import source as source_of_kind
from curate.sources.registry import source_of, suffixes
from curate.sources.source import Source
from curate.storage.paths import Entry, find, is_local, plain, tree


def list_shards(inputs: Sequence[str], columns: Mapping[str, str]) -> Shards:
    """List the shards of files, globs, folders and fsspec URLs, in order; a file that is named twice counts once.

    `columns` names the columns of tables by role (image, text, url, key); the others are guessed. Raises InputError when
    nothing matches, or when an input cannot be used.
    """
    if not inputs:
        raise InputError("no input: name a tar, a table, or a folder of images")
    if len(inputs) == 1:
        found = Shards(_listed(plain(inputs[0]), columns))
    else:
        found = Shards(_distinct(shard for url in map(plain, inputs) for shard in _listed(url, columns)))
    if columns:
        _check_fields(found)
    return found


def _check_fields(shards: Shards) -> None:
    """Raise InputError where fields beside images are named and the first local shard with any does not have them."""
    for shard in shards:
        fields = source_of_kind(shard.kind).fields
        if fields is not None and shard.columns and is_local(shard.url):
            with suppress(ShardBreak, OSError):  # which the run will report
                check_named(shard.url, fields(shard), shard.columns)
            return


def _listed(url: str, columns: Mapping[str, str]) -> Iterator[Shard]:
    try:
        entries, is_folder = find(url)
        if is_folder:
            yield from _folder(url, columns)
        else:
            for entry in entries:
                if (source := source_of(entry.url)) is None:
                    raise InputError(f"{entry.url}: unknown kind of file; known are {', '.join(suffixes())}")
                yield from source.shards(entry, columns)
    except OSError as error:
        raise InputError(f"{url}: {error.strerror or error}") from None


def _distinct(shards: Iterable[Shard]) -> Iterator[Shard]:
    seen: set[int] = set()  # hashes: half the memory of the names
    for shard in shards:
        key = xxhash.xxh3_64_intdigest(repr((shard.url, shard.part)).encode(errors="replace"))
        if key not in seen:
            seen.add(key)
            yield shard


def _folder(url: str, columns: Mapping[str, str]) -> Iterator[Shard]:
    """List the shards of a folder: its files of known kinds, else its images. Raises InputError when there are none."""
    from curate.sources.folder import LISTS, image_shards, is_image

    entries = _inputs(url, tree(url))
    has_images = any(is_image(entry.url) for entry in entries)
    some = False
    for entry, source in _known(entries):
        if not (has_images and posixpath.basename(entry.url) in LISTS):
            some = True
            yield from source.shards(entry, columns)
    if not some and has_images:
        yield from image_shards(url, entries, columns)
    elif not some:
        raise InputError(f"{url}: no tar, table, web archive or image in this folder")


def _inputs(url: str, entries: list[Entry]) -> list[Entry]:
    """Return the files of a folder that are input; where a run or an extraction wrote it, its results."""
    base = url.rstrip("/")
    if any(entry.url == base + "/manifest.json" for entry in entries):  # a run's output: its tars, not its decisions
        entries = [entry for entry in entries if entry.url.startswith(base + "/shards/")] or entries
    if any(entry.url == base + "/extract.json" for entry in entries):  # an extraction's: pairs, and tars of some of them
        entries = [entry for entry in entries if not entry.url.startswith(base + "/shards/")]
    return entries


def _known(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Source]]:
    """Yield the files that some source reads, without those that only describe another file (see Source.yields_to)."""
    names: set[str] | None = None
    for entry in entries:
        if (source := source_of(entry.url)) is None:
            continue
        if source.yields_to:
            names = names or {other.url for other in entries}
            stem = posixpath.splitext(entry.url)[0]
            if any(stem + suffix in names for suffix in source.yields_to):
                continue
        yield entry, source
