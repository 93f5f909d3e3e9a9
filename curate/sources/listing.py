"""From inputs (files, globs, folders, URLs) to shards. Knows no file format but the layout of a folder of images."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import xxhash

from curate.core.contracts import Shard, ShardBreak
from curate.core.errors import InputError
from curate.core.shards import Shards
from curate.sources.fields import check_named
from curate.sources.names import expanded, given, pattern
from curate.sources.packed import ends_with, is_packed
from curate.sources.registry import source as source_of_kind
from curate.sources.registry import source_of, suffixes
from curate.sources.source import Source
from curate.storage.paths import Entry, exists, find, globbed, is_local, plain, tree

_KINDS = (".parquet", ".arrow", ".jsonl", ".json", ".tsv", ".csv")
_GLOB = re.compile(r"[*?\[]")


def list_shards(inputs: Sequence[str], columns: Mapping[str, str]) -> Shards:
    """List the shards of files, globs, brace lists, folders, fsspec URLs and @lists of these, in order, each file once.

    `columns` names the columns of tables by role (image, text, url, key); the others are guessed. Raises InputError when
    nothing matches, or when an input cannot be used.
    """
    if not inputs:
        raise InputError("no input: name a tar, a table, or a folder of images")
    listing = _Listing(columns)
    if len(inputs) == 1 and inputs[0][0:1] != "@" and "{" not in inputs[0]:
        found = Shards(listing.listed(plain(inputs[0])))
    else:
        found = Shards(_distinct(shard for name in given(inputs) for shard in listing.named(name)))
    found.left_aside = listing.aside
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


def _distinct(shards: Iterable[Shard]) -> Iterator[Shard]:
    seen: set[int] = set()  # hashes: half the memory of the names
    for shard in shards:
        key = xxhash.xxh3_64_intdigest(repr((shard.url, shard.part)).encode(errors="replace"))
        if key not in seen:
            seen.add(key)
            yield shard


@dataclass
class _Listing:
    """Lists shards; `aside` says of files in folders why they are not read."""

    columns: Mapping[str, str]
    aside: list[str] = field(default_factory=list)

    def named(self, name: str) -> Iterator[Shard]:
        """List the shards of an input that may be a brace list. Raises InputError where a file of it is missing."""
        if "{" not in name or exists(plain(name)):
            yield from self.listed(plain(name))
            return
        known = globbed(plain(pattern(name))) if "://" in name and not _GLOB.search(name) else {}
        for one in map(plain, expanded(name)):
            yield from self.listed(one, known.get(one))

    def listed(self, url: str, known: Entry | None = None) -> Iterator[Shard]:
        """List the shards of a file, glob or folder. Raises InputError."""
        try:
            entries, is_folder = ([known], False) if known else find(url)
            if is_folder:
                yield from self._folder(url)
            else:
                for entry in entries:
                    if (source := source_of(entry.url)) is None:
                        raise InputError(f"{entry.url}: unknown kind of file; known are {', '.join(suffixes())}")
                    yield from source.shards(entry, self.columns)
        except OSError as error:
            raise InputError(f"{url}: {error.strerror or error}") from None

    def _folder(self, url: str) -> Iterator[Shard]:
        """List the shards of a folder: its files of known kinds, else its images. Raises InputError when there are none."""
        from curate.sources.folder import LISTS, image_shards, is_image

        entries = _inputs(url, tree(url))
        has_images, some, known = any(is_image(entry.url) for entry in entries), False, list(_known(entries))
        others = has_images or any(not source.beside for _, source in known)
        twins, refused = _twins(entry for entry, source in known if source.table), None
        for entry, source in known:
            if (others and source.beside) or (has_images and posixpath.basename(entry.url) in LISTS):
                continue
            if entry.url in twins:
                self.aside.append(f"{entry.url} is not read: {posixpath.basename(twins[entry.url])} beside it has the same name")
                continue
            try:
                shards = list(source.shards(entry, self.columns)) if source.table else source.shards(entry, self.columns)
            except InputError as error:
                refused = refused or error
                self.aside.append(f"not read: {error}")
                continue
            if has_images and "url" not in self.columns and source.table and all(shard.on_the_web for shard in shards):
                self.aside.append(f"{entry.url} is not read: it lists addresses, and the images in its folder are the input")
                continue
            some = True
            yield from shards
        if not some and has_images:
            yield from image_shards(url, entries, self.columns)
        elif not some:
            raise refused or InputError(f"{url}: no tar, table, web archive or image in this folder")


def _twins(tables: Iterable[Entry]) -> dict[str, str]:
    """Return the tables that another one stands for, which has the same name but for the extension: the same rows twice."""
    names: dict[str, list[str]] = {}
    for entry in tables:
        name = posixpath.splitext(entry.url)[0] if is_packed(entry.url) else entry.url
        names.setdefault(posixpath.splitext(name)[0], []).append(entry.url)
    several = (sorted(urls, key=_preference) for urls in names.values() if len({_preference(url) for url in urls}) > 1)
    return {url: first for first, *urls in several for url in urls if _preference(url) != _preference(first)}


def _preference(url: str) -> int:
    """Return how much is lost in a kind of table, from nothing upwards."""
    return next((at for at, suffix in enumerate(_KINDS) if ends_with(url, suffix)), len(_KINDS))


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
