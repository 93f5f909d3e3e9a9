"""From inputs (files, globs, folders, URLs) to shards."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence

import xxhash

from curate.core.contracts import Shard
from curate.core.errors import InputError, needs
from curate.core.shards import Shards
from curate.sources.kinds import PACKED, _kind
from curate.storage.paths import Entry, find, plain, staged, tree


def list_shards(inputs: Sequence[str], columns: Mapping[str, str]) -> Shards:
    """List the shards of files, globs, folders and fsspec urls, in order; a file that is named twice counts once.

    `columns` names the columns of tables by role (image, text, url, key); what it leaves out is guessed. Raises
    InputError when nothing matches, or when an input cannot be used.
    """
    if not inputs:
        raise InputError("no input: name a tar, a table, or a folder of images")
    if len(inputs) == 1:
        return Shards(_listed(plain(inputs[0]), columns))
    return Shards(_distinct(shard for url in map(plain, inputs) for shard in _listed(url, columns)))


def _listed(url: str, columns: Mapping[str, str]) -> Iterator[Shard]:
    try:
        entries, is_folder = find(url)
        if is_folder:
            yield from _folder(url, columns)
        else:
            for entry in entries:
                yield from _file(entry, columns)
    except OSError as error:
        raise InputError(f"{url}: {error.strerror or error}") from None


def _distinct(shards: Iterable[Shard]) -> Iterator[Shard]:
    seen: set[int] = set()  # hashes: half the memory of what they stand for
    for shard in shards:
        key = xxhash.xxh3_64_intdigest(repr((shard.url, shard.part)).encode(errors="replace"))
        if key not in seen:
            seen.add(key)
            yield shard


def _shard(entry: Entry, kind: str, part: tuple[int, int] | None, columns: Mapping[str, str]) -> Shard:
    used = tuple(sorted(columns.items()))
    told = repr((entry.url, entry.size, entry.stamp, kind, part, used))
    fingerprint = xxhash.xxh3_64_hexdigest(told.encode(errors="replace"))
    return Shard(0, entry.url, kind, entry.size, fingerprint, part, used)


def _file(entry: Entry, columns: Mapping[str, str]) -> list[Shard]:
    """List the shards of one file. Raises InputError when it is of no known kind or has no usable columns."""
    if entry.url.lower().endswith(PACKED):
        raise InputError(f"{entry.url}: compressed tars cannot be read at random; unpack it first (gunzip, zstd -d)")
    kind = _kind(entry.url)
    if kind is None:
        raise InputError(f"{entry.url}: not a tar, parquet, csv, jsonl or web archive file")
    if kind == "archive":
        needs("reading web archives", "crawl", ["fastwarc", "brotli", "msgspec"])
    if kind in ("tar", "archive"):
        return [_shard(entry, kind, None, {})]
    from curate.sources.tables.inspect import inspect
    from curate.storage.paths import is_local

    with staged(entry.url) as path:
        used, parts = inspect(entry.url, path, kind, columns)
    # a part of a remote file would mean to download all of it again
    return [_shard(entry, kind, part, used) for part in (parts if is_local(entry.url) else [None])]


def _folder(url: str, columns: Mapping[str, str]) -> Iterator[Shard]:
    """List the shards of a folder: its tars and tables, else its images. Raises InputError when there are none."""
    from curate.sources.folder import LISTS, is_image

    entries = tree(url)
    base = url.rstrip("/")
    if any(entry.url == base + "/manifest.json" for entry in entries):  # what a run wrote: its tars, not its records
        entries = [entry for entry in entries if entry.url.startswith(base + "/shards/")] or entries
    if any(entry.url == base + "/extract.json" for entry in entries):  # what an extraction wrote: pairs, and tars of some of them
        entries = [entry for entry in entries if not entry.url.startswith(base + "/shards/")]
    tables = any(_kind(entry.url) == "parquet" for entry in entries)
    names = {entry.url for entry in entries} if tables else set()
    has_images = any(is_image(entry.url) for entry in entries)
    some = False
    for entry in entries:
        # img2dataset writes a table of metadata beside each tar
        described = _kind(entry.url) == "parquet" and posixpath.splitext(entry.url)[0] + ".tar" in names
        captions = has_images and posixpath.basename(entry.url) in LISTS
        if not (described or captions) and (_kind(entry.url) or entry.url.lower().endswith(PACKED)):
            some = True
            yield from _file(entry, columns)
    if not some and has_images:
        yield from _image_folder(url, [entry for entry in entries if is_image(entry.url)], entries)
    elif not some:
        raise InputError(f"{url}: no tar, table, web archive or image in this folder")


def _image_folder(url: str, found: Sequence[Entry], entries: Sequence[Entry]) -> list[Shard]:
    """Cut the images of a folder into shards. A changed caption changes all fingerprints: captions are small."""
    from curate.sources.folder import SHARD_IMAGES, is_image

    captions = repr([entry for entry in entries if not is_image(entry.url)])
    shards = []
    for begin in range(0, len(found), SHARD_IMAGES):
        part = found[begin : begin + SHARD_IMAGES]
        stamp = xxhash.xxh3_64_hexdigest((repr(part) + captions).encode(errors="replace"))
        whole = Entry(url, sum(entry.size for entry in part), stamp)
        shards.append(_shard(whole, "folder", (begin, begin + len(part)), {}))
    return shards
