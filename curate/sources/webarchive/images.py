"""Images that are in the same archive as the pages that show them, found by URL and written as WebDataset."""

from __future__ import annotations

import json
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
    """Writes the images of pairs into a tar: key.jpg (or png, ...), key.json, key.txt; the key is shard number and row."""

    def __init__(self, reading: Reading, path: Path, shard: int) -> None:
        assert reading.images is not None
        self._index, self._archive, self._shard = reading.images, reading.path, shard
        self._file = path.open("wb", buffering=1 << 20)
        self._samples = 0

    def add(self, table: pa.Table, start: int) -> None:
        """Write those of the pairs of `table` (the first is row `start` of the archive's) whose images are there."""
        for place, url in enumerate(table["url"].to_pylist()):
            at = self._index.find(url)
            image = None if at is None else load(self._archive, at)
            extension = None if image is None else extension_of(image)
            if image is not None and extension is not None:
                self._sample(f"{self._shard:06d}{start + place:09d}", extension, image, table.slice(place, 1).to_pylist()[0])

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
        return self._samples


def load(archive: str, offset: int) -> bytes | None:
    """Return the image in the record at a place of an archive; None where it is cut off, too large or damaged."""
    try:
        record = next(warc.records(archive, warc.Tally(), offset), None)
    except ShardBreak:
        return None
    if record is None or record.offset != offset or record.length > MAX_IMAGE:
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
