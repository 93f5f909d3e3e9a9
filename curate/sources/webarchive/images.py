"""Images that are in the same archive as the pages that show them, found by URL and written as WebDataset."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curate.core.contracts import ShardBreak
from curate.sources.records import MAX_IMAGE
from curate.sources.webarchive import http, warc

if TYPE_CHECKING:
    from curate.sources.webarchive.pairs import Reading

_SIGNS = (
    (b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF87a", "gif"), (b"GIF89a", "gif"), (b"BM", "bmp"),
    (b"II*\0", "tif"), (b"MM\0*", "tif"),
)  # fmt: skip
_TOLD = ("url", "page_url", "page_language", "title", "figcaption", "surrounding", "width", "height", "position", "count")


class ArchiveImageWriter:
    """Writes the images of pairs into a tar: key.jpg (or png, ...), key.json, key.txt; the key is shard number and row.

    `urls` are those of the pairs. They are asked for only where the archive cannot be sought in, as when one gzip member holds
    several records: then it is read once more from its start, and the images of these URLs are put aside beside `path`.
    """

    def __init__(self, reading: Reading, path: Path, shard: int, urls: Iterable[str]) -> None:
        assert reading.images is not None
        self._index, self._archive, self._shard = reading.images, reading.path, shard
        self._aside = None if reading.tally.apart else _Aside(path.with_suffix(".aside"))
        if self._aside is not None:
            self._aside.fill(reading.path, {number for url in urls if (number := reading.images.find(url)) is not None})
        self._file = path.open("wb", buffering=1 << 20)
        self._samples = 0

    def add(self, table: pa.Table, start: int) -> None:
        """Write those of the pairs of `table` (the first is row `start` of the archive's) whose images are there."""
        for place, url in enumerate(table["url"].to_pylist()):
            number = self._index.find(url)
            image = None if number is None else self._image(number)
            extension = None if image is None else extension_of(image)
            if image is not None and extension is not None:
                self._sample(f"{self._shard:06d}{start + place:09d}", extension, image, table.slice(place, 1).to_pylist()[0])

    def _image(self, number: int) -> bytes | None:
        return load(self._archive, self._index.offsets[number]) if self._aside is None else self._aside.load(number)

    def _sample(self, key: str, extension: str, image: bytes, row: dict[str, Any]) -> None:
        described = {name: row[name] for name in _TOLD}
        described["crawl_date"] = None if row["crawl_date"] is None else row["crawl_date"].isoformat()
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        for name, body in ((extension, image), ("json", text), ("txt", row["text"].encode())):
            self._member(f"{key}.{name}", body)
        self._samples += 1

    def _member(self, name: str, body: bytes) -> None:
        from curate.storage.tar import member_header

        self._file.write(member_header(name, len(body)))
        self._file.write(body)
        self._file.write(bytes(-len(body) % 512))

    def close(self) -> int:
        """End the tar; return how many samples it holds."""
        self._file.write(bytes(1024))
        self._file.close()
        if self._aside is not None:
            self._aside.close()
        return self._samples


class _Aside:
    """Images of an archive in a file of their own, by the numbers of their records."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("w+b")
        self._places: dict[int, tuple[int, int]] = {}

    def fill(self, archive: str, numbers: set[int]) -> None:
        """Copy the images in these records of an archive, as far as it can be read."""
        try:
            for record in warc.records(archive, warc.Tally()) if numbers else ():
                if record.number in numbers and (image := _image_in(record)) is not None:
                    self._places[record.number] = (self._file.tell(), len(image))
                    self._file.write(image)
        except ShardBreak:
            return  # told when the pages were read

    def load(self, number: int) -> bytes | None:
        """Return the image in a record; None where it is cut off, too large or damaged."""
        if number not in self._places:
            return None
        at, size = self._places[number]
        self._file.seek(at)
        return self._file.read(size)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink()


def load(archive: str, offset: int) -> bytes | None:
    """Return the image in the record at a place of an archive; None where it is cut off, too large or damaged."""
    try:
        record = next(warc.records(archive, warc.Tally(), offset), None)
    except ShardBreak:
        return None
    return None if record is None or record.offset != offset else _image_in(record)


def _image_in(record: warc.Record) -> bytes | None:
    if record.length > MAX_IMAGE:
        return None
    block = record.read(record.length)
    if len(block) < record.length:
        return None
    head = http.head_of(block) if record.kind == "response" else None
    body = http.Body(block) if head is None else http.body_of(head, block[head.size :], MAX_IMAGE)
    return None if body.wrong else body.data


def extension_of(image: bytes) -> str | None:
    """Return the extension of an image file by its first bytes; None for what is no image of a known format."""
    for sign, extension in _SIGNS:
        if image.startswith(sign):
            return extension
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return "avif" if image[4:12] in (b"ftypavif", b"ftypavis") else None
