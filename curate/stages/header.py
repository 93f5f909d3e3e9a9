"""Facts from an image's bytes and header: size, hash, format, width, height. No pixel is decoded.

The parsers read a few bytes by `struct` and call no image library, so a file that claims a billion pixels costs as much
as any other. They return what the header claims; whether the pixels keep the promise is for curate.stages.decode.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.images.header import (
    HEAD_BYTES,
    MAX_DECODED_BYTES,
    read_header,
)


@dataclass(frozen=True)
class HeaderStage(Stage):
    """Provides bytes, sha256, header, format, width, height, animated from column `image` (binary, null = none)."""

    max_decoded_bytes: int = MAX_DECODED_BYTES

    name: ClassVar[str] = "header"
    cost: ClassVar[float] = 1.5e-4
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("bytes", pa.int64(), "image", "size of the image file", shown=True),
        Fact("sha256", pa.string(), "image", "sha256 of the image file, hex", shown=True),
        Fact("header", pa.string(), "image", "'ok', or why the image's header says that it cannot be used"),
        Fact("format", pa.string(), "image", "jpeg, png, webp, gif, bmp, tiff, avif, heif", shown=True),
        Fact("width", pa.int32(), "image", "pixels, as stored (before EXIF orientation)", shown=True),
        Fact("height", pa.int32(), "image", "pixels, as stored (before EXIF orientation)", shown=True),
        Fact("animated", pa.bool_(), "image", "more than one frame; the first is judged", shown=True),
    )
    reads = ("image",)

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with the seven facts appended; bad images are reasons in `header`."""
        images = batch.column("image")
        if images.null_count == len(images):  # a table of texts
            arrays = [pa.nulls(len(images), field.type) for field in self.provides]
            arrays[self.provides.get_field_index("header")] = pa.repeat("missing", len(images))
        else:
            columns = list(zip(*(self._facts(image) for image in images), strict=True))
            arrays = [pa.array(values, field.type) for values, field in zip(columns, self.provides, strict=True)]
        return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=pa.schema([*batch.schema, *self.provides]))

    def _facts(self, image: pa.BinaryScalar) -> tuple[object, ...]:
        """Return the facts of one image; of a JPEG only the first bytes are copied where they hold its frame header."""
        if not image.is_valid:
            return None, None, "missing", None, None, None, None
        data = image.as_buffer()
        head = data.slice(0, min(data.size, HEAD_BYTES)).to_pybytes()
        header = read_header(head, self.max_decoded_bytes) if head.startswith(b"\xff\xd8\xff") else None
        if header is None or header.reason not in ("ok", "too_many_pixels"):
            header = read_header(image.as_py(), self.max_decoded_bytes)
        reason, form, width, height, animated, _ = header
        return data.size, hashlib.sha256(data).hexdigest(), reason, form, width, height, animated
