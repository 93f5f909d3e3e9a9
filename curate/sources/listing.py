"""From inputs (files, globs, folders, URLs) to shards. Knows no file format but the layout of a folder of images."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import xxhash

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError
from curate.core.shards import Shards
from curate.sources.fields import check_named
from curate.sources.names import expanded, given, pattern
from curate.sources.registry import source as source_of_kind
from curate.sources.registry import source_of, suffixes
from curate.sources.source import Source
from curate.storage.paths import Entry, exists, find, globbed, is_local, plain, tree

STATS = "_stats.json"
"""What img2dataset writes beside each shard, as 00000_stats.json."""

_GLOB = re.compile(r"[*?\[]")


def list_shards(inputs: Sequence[str], columns: Mapping[str, str]) -> Shards:
    """List the shards of files, globs, brace lists, folders, fsspec URLs and @lists of these, in order, each file once.

    `columns` names the columns of tables by role (image, text, url, key); the others are guessed. Raises InputError when
    nothing matches, or when an input cannot be used.
    """
    if not inputs:
        raise InputError("no input: name a tar, a table, or a folder of images")
    if len(inputs) == 1 and inputs[0][0:1] != "@" and "{" not in inputs[0]:
        found = Shards(_listed(plain(inputs[0]), columns))
    else:
        found = Shards(_distinct(shard for name in given(inputs) for shard in _named(name, columns)))
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


def _named(name: str, columns: Mapping[str, str]) -> Iterator[Shard]:
    """List the shards of an input that may be a brace list. Raises InputError where a file of it is missing."""
    if "{" not in name or exists(plain(name)):
        yield from _listed(plain(name), columns)
        return
    known = globbed(plain(pattern(name))) if "://" in name and not _GLOB.search(name) else {}
    for one in map(plain, expanded(name)):
        yield from _listed(one, columns, known.get(one))


def _listed(url: str, columns: Mapping[str, str], known: Entry | None = None) -> Iterator[Shard]:
    try:
        entries, is_folder = ([known], False) if known else find(url)
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
    with_images = {posixpath.dirname(entry.url) for entry in entries if is_image(entry.url)}
    counted = {entry.url.removesuffix(STATS) for entry in entries if entry.url.endswith(STATS)}
    has_images, some, known = bool(with_images), False, list(_known(entries))
    others = has_images or any(not source.beside for _, source in known)
    for entry, source in known:
        stem = posixpath.splitext(entry.url)[0]
        logged = stem in with_images and stem in counted  # of what img2dataset wrote as files
        aside = others and source.beside
        if not logged and not aside and not (has_images and posixpath.basename(entry.url) in LISTS):
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
    saved = {posixpath.dirname(entry.url) for entry in entries if posixpath.basename(entry.url) == "state.json"}
    if saved:  # HF datasets keep results that they computed beside the data
        caches = [url for url in (entry.url for entry in entries) if posixpath.basename(url).startswith("cache-")]
        hidden = {url for url in caches if url.endswith(".arrow") and posixpath.dirname(url) in saved}
        entries = [entry for entry in entries if entry.url not in hidden]
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
