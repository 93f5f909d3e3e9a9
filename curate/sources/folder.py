"""A folder of images with captions: .txt or .json files of the same stem, or a captions.jsonl / metadata.jsonl."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import xxhash

from curate.core.contracts import Batch, Shard
from curate.sources.fields import FIRST, Reading, beside_images, names_of
from curate.sources.lines import lines_of, parse_line
from curate.sources.linked_files import Folder
from curate.sources.records import IMAGE_TYPES, MAX_TEXT, UNSAFE_KEY, Record, batches, decode, first, join
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.texts import together
from curate.storage.paths import Entry, staged, tree

SHARD_IMAGES = 10_000
LISTS = ("captions.jsonl", "metadata.jsonl")
_NAMES = ("file_name", "image", "path", "filename", "image_path")
CAPTIONS = ("caption", "captions", "text", "alt", "TEXT", "alt_text", "title")
_UNSAFE = re.compile(UNSAFE_KEY)


def is_image(url: str) -> bool:
    """Return whether a file name has an image extension."""
    return posixpath.splitext(url)[1][1:].lower() in IMAGE_TYPES


@dataclass
class FolderShard:
    """Consecutive images of a folder, sorted by name; `shard.part` is their range."""

    shard: Shard

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA."""
        yield from batches(islice(self._records(), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the images of `rows` (column row)."""
        images, _ = self._files()
        folder = Folder(self.shard.url, listed=True)
        for row in rows.column("row").to_pylist():
            yield folder.load(self._relative(images[row].url))[0] if 0 <= row < len(images) else None

    def _files(self) -> tuple[list[Entry], dict[str, Entry]]:
        """Return the images of this part, and all files of the folder by url."""
        files = tree(self.shard.url)
        images = [entry for entry in files if is_image(entry.url)]
        return images[slice(*self.shard.part)] if self.shard.part else images, {entry.url: entry for entry in files}

    def fields(self) -> list[str]:
        """Return the names of the fields beside the first images."""
        images, files = self._files()
        listed = self._listed({self._relative(image.url) for image in images[:FIRST]}, files)
        beside = (self._beside(posixpath.splitext(image.url)[0], files, [])[1] for image in images[:FIRST])
        return list(dict.fromkeys(name for fields in (*beside, *listed.values()) for name in names_of(fields)))

    def _relative(self, url: str) -> str:
        return url[len(self.shard.url.rstrip("/")) + 1 :]

    def _records(self) -> Iterator[Record]:
        images, files = self._files()
        folder, reading = Folder(self.shard.url, listed=True), Reading.of(CAPTIONS, self.shard.columns)
        listed = self._listed({self._relative(image.url) for image in images}, files)
        before = None
        for image in images:
            name = self._relative(image.url)
            stem = posixpath.splitext(name)[0]
            data, code = folder.load(name)
            codes = [code] if code else []
            written, fields = self._beside(posixpath.splitext(image.url)[0], files, codes)
            found = reading.texts(fields, written, codes) or reading.texts(listed.get(name, {}), None, codes)
            url = reading.url_of(fields) or reading.url_of(listed.get(name, {}))
            fields = {**{field: value for field, value in listed.get(name, {}).items() if field not in _NAMES}, **fields}
            text, more = together(found, codes)
            codes += ["missing_text"] if text is None else []
            own = stem.encode(errors="surrogateescape").decode(errors="replace")
            key = reading.key_of(fields) or own
            codes += ["key_not_utf8"] if key == own != stem else []
            codes += ["duplicate_key"] if stem == before else []
            codes += ["unsafe_key"] if _UNSAFE.search(key) else []
            before = stem
            further = reading.further(fields, written=written is not None)
            yield Record(key, url, text, join(codes), data, more_texts=more, input=further)

    def _beside(self, stem: str, files: dict[str, Entry], codes: list[str]) -> tuple[str | None, dict[str, object]]:
        """Return the text and the fields of the sidecar files of an image."""
        text = None
        fields: dict[str, object] = {}
        folder, most = Folder(self.shard.url, listed=True), Reading.of(CAPTIONS, self.shard.columns).max_json
        if stem + ".txt" in files:
            data, _ = folder.load(self._relative(stem + ".txt"))
            text = None if data is None else decode(data[: MAX_TEXT * 4 + 4], codes)
        if stem + ".json" in files:
            data, _ = folder.load(self._relative(stem + ".json"))
            found = parse_line(data if data is not None and len(data) <= most else None)
            codes += ["bad_json"] if found is None else []
            fields = found or {}
        return text, fields

    def _listed(self, names: set[str], files: dict[str, Entry]) -> dict[str, dict[str, object]]:
        """Return the fields of the images `names` in caption lists. Others are not kept: a list may be larger than memory."""
        found: dict[str, dict[str, object]] = {}
        for url in files:
            if posixpath.basename(url) not in LISTS:
                continue
            below = posixpath.dirname(self._relative(url))
            with staged(url) as path, open(path, "rb") as file:
                for line in lines_of(file):
                    fields = parse_line(line) or {}
                    name = posixpath.normpath(posixpath.join(below, first(fields, _NAMES) or ""))
                    if name in names:
                        found.setdefault(name, fields)
        return found


def image_shards(url: str, entries: Sequence[Entry], columns: Mapping[str, str] | None = None) -> Iterator[Shard]:
    """Split the images among the files of a folder into shards of SHARD_IMAGES.

    A changed caption changes the fingerprints of all: captions are small, and which images they belong to is not known here.
    """
    found = [entry for entry in entries if is_image(entry.url)]
    captions = repr([entry for entry in entries if not is_image(entry.url)])
    for begin in range(0, len(found), SHARD_IMAGES):
        part = found[begin : begin + SHARD_IMAGES]
        stamp = xxhash.xxh3_64_hexdigest((repr(part) + captions).encode(errors="replace"))
        whole = Entry(url, sum(entry.size for entry in part), stamp)
        yield shard_of(whole, SOURCE.kind, (begin, begin + len(part)), beside_images({} if columns is None else columns))


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    yield FolderShard(shard)


SOURCE = Source("folder", (), _open, fields=lambda shard: FolderShard(shard).fields())
"""Images with captions beside them: no file is listed by its name, see `image_shards`."""
