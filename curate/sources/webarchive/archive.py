"""Web archives as a source of pairs: their names, and what must be installed to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from curate.core.contracts import Shard
from curate.core.errors import InputError, needs
from curate.sources.source import OpenShard, Source, shard_of
from curate.storage.paths import Entry, staged

ARCHIVES = tuple(name + packed for name in (".warc", ".arc", ".wat") for packed in ("", ".gz", ".zst", ".lz4"))
"""How the names of web archives end."""

WET = tuple(".wet" + packed for packed in ("", ".gz", ".zst", ".lz4"))

TEXTS_ONLY = "WET holds the texts of pages and no images: take the WARC (.warc.gz) or WAT (.warc.wat.gz) of the same pages"
"""What is wrong with Common Crawl's WET files."""


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    if entry.url.lower().endswith(WET):
        raise InputError(f"{entry.url}: {TEXTS_ONLY}")
    needs("reading web archives", "crawl", ["fastwarc", "brotli", "msgspec", "charset_normalizer"])
    return [shard_of(entry, SOURCE.kind, on_the_web=True)]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    from curate.sources.webarchive.pairs import ArchiveShard

    with staged(shard.url) as path:
        yield ArchiveShard(shard, path)


SOURCE = Source("archive", (*ARCHIVES, *WET), _open, _list)
"""WARC, WAT and ARC."""
