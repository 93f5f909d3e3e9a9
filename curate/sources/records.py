"""What all sources share: error codes, the record, and batches of records. Knows no file format."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curate.core.contracts import RECORD_SCHEMA, ROW_GROUP, Batch, ShardBreak

MAX_TEXT = 65_536
"""Characters of a text that are kept."""

MAX_TEXTS = 64
"""Texts of a record that are kept; all but the first have MAX_TEXT characters together."""

MAX_IMAGE = 256 << 20
"""Bytes of the largest image file that is read."""

MAX_JSON = 1 << 20
"""Bytes of the largest JSON file beside an image that is read."""

BATCH_BYTES = 8 << 20
"""Bytes of images and texts in a batch; a larger image gets its own batch. Larger batches are slower: they need fresh memory."""

URLS = ("url", "URL", "image_url")
"""Fields of a record's JSON that name where its image came from, the likeliest first."""

IMAGE_TYPES = frozenset(
    [
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "avifs"),
        *("heic", "heif", "hif", "ico", "jp2", "j2k", "jxl", "ppm", "pgm", "pbm", "pnm", "tga", "psd"),
    ]
)
"""File extensions, in lower case without the dot, that mean an image."""

ERRORS: dict[str, str] = {
    "missing_image": "the record has no image",
    "missing_text": "the record has no text",
    "missing_url": "the record has no image and no address to fetch one from",
    "text_not_utf8": "the text is not UTF-8: what could not be decoded was replaced",
    "text_too_long": f"the text was cut to its first {MAX_TEXT} characters",
    "too_many_texts": f"of several texts those after {MAX_TEXTS} texts, or after {MAX_TEXT} characters, were left out",
    "image_too_large": f"the image file is larger than {MAX_IMAGE >> 20} MiB and was not read",
    "image_not_found": "the image file that the record names does not exist or cannot be read",
    "image_is_url": "the record names its image by an http(s) address where others name a file: it is not fetched",
    "unsafe_path": "the image path that the record names leaves the folder of its table, or cannot be a path",
    "bad_base64": "the image is not base64",
    "bad_bytes": "the image is a list of numbers that are not all bytes",
    "bad_json": "the record's JSON is not valid JSON, is no object, or is too large",
    "bad_row": "the row has another number of columns than the header",
    "duplicate_key": "an earlier record of the shard has the same key",
    "unsafe_key": "the key holds '..', a backslash or a control character, or starts with '/'",
    "key_not_utf8": "the key is not UTF-8: what could not be decoded was replaced",
}
"""The codes in a record's `error` (joined by commas), and their meaning."""

UNSAFE_KEY = r"\.\.|^/|[\x00-\x1f\x7f\\]"
"""What a key must not contain (a pattern that both `re` and Arrow's RE2 read alike)."""


class Record(NamedTuple):
    """One row of RECORD_SCHEMA without its number."""

    key: str
    url: str | None
    text: str | None
    error: str | None
    image: bytes | None
    offset: int | None = None
    given_sha256: str | None = None
    earlier_texts: str | None = None
    more_texts: list[str] | None = None
    input: str | None = None

    def size(self) -> int:
        """Return about how many bytes it takes."""
        texts = sum(map(len, self.more_texts)) if self.more_texts else 0
        return len(self.image or b"") + len(self.text or "") + len(self.earlier_texts or "") + len(self.input or "") + texts


def batches(records: Iterable[Record], start: int = 0) -> Iterator[Batch]:
    """Yield `records` as batches of RECORD_SCHEMA of at most ROW_GROUP rows or BATCH_BYTES, numbered from `start`.

    A ShardBreak raised by `records` is raised again after the rows before it were yielded.
    """
    held: list[Record] = []
    size, broken = 0, None
    stream = iter(records)
    while True:
        try:
            record = next(stream, None)
        except ShardBreak as error:
            record, broken = None, error
        if record is None:
            break
        weight = record.size()
        if held and (len(held) == ROW_GROUP or size + weight > BATCH_BYTES):
            yield _pack(held, start)
            start, held, size = start + len(held), [], 0
        held.append(record)
        size += weight
    if held:
        yield _pack(held, start)
    if broken is not None:
        raise broken


def _pack(held: Sequence[Record], start: int) -> Batch:
    columns = dict(zip(Record._fields, zip(*held, strict=True), strict=True))
    arrays = {name: pa.array(values, RECORD_SCHEMA.field(name).type) for name, values in columns.items() if name != "image"}
    arrays["row"] = pa.array(range(start, start + len(held)), pa.int64())
    arrays["image"] = image_array(columns["image"])
    return pa.RecordBatch.from_arrays([arrays[name] for name in RECORD_SCHEMA.names], schema=RECORD_SCHEMA)


def image_array(images: Sequence[bytes | None]) -> pa.Array:
    """Return images as an Arrow binary array. Bytes are copied once; Arrow's own builder grows and copies again.

    Raises OverflowError above 2 GiB of them.
    """
    ends = np.zeros(len(images) + 1, np.int64)
    np.cumsum([len(image or b"") for image in images], out=ends[1:])
    if ends[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{ends[-1]} bytes of images in one batch")
    data = pa.allocate_buffer(int(ends[-1]))  # from Arrow's pool, whose memory is warm: new pages cost more than the copy
    target = memoryview(data).cast("B")
    for image, start, end in zip(images, ends.tolist(), ends[1:].tolist(), strict=False):
        if image:
            target[start:end] = image
    valid = np.packbits([image is not None for image in images], bitorder="little")
    offsets = pa.py_buffer(ends.astype(np.int32).tobytes())
    return pa.Array.from_buffers(pa.binary(), len(images), [pa.py_buffer(valid.tobytes()), offsets, data])


def join(codes: Sequence[str]) -> str | None:
    """Join error codes; None when there are none."""
    return ",".join(dict.fromkeys(codes)) or None


def decode(data: bytes, codes: list[str]) -> str:
    """Decode a text, given at least its first 4 * MAX_TEXT + 4 bytes; append error codes to `codes`."""
    whole = len(data) <= 4 * MAX_TEXT
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode() if whole else codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        codes.append("text_not_utf8")
    return cut(text, codes)


def cut(text: str, codes: list[str]) -> str:
    """Return the first MAX_TEXT characters of `text`; append an error code to `codes` when it is longer."""
    if len(text) <= MAX_TEXT:
        return text
    codes.append("text_too_long")
    return text[:MAX_TEXT]


def as_text(value: object, codes: list[str] | None = None) -> str | None:
    """Return a JSON value or table cell as text: the first item of a list, bytes decoded, numbers formatted.

    Returns None for anything else (null, an object, an empty list). Lone surrogates, which JSON can express and UTF-8
    cannot, are replaced. Error codes are appended to `codes`.
    """
    if type(value) is str and value.isascii() and len(value) <= MAX_TEXT:  # nearly all
        return value
    codes = [] if codes is None else codes
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bytes):
        return decode(value, codes)
    if value is None or isinstance(value, (dict, list)):
        return None
    text = str(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            codes.append("text_not_utf8")
    return cut(text, codes)


def first(fields: Mapping[str, object], names: Sequence[str], codes: list[str] | None = None) -> str | None:
    """Return the first of the fields `names` that holds text (see as_text), or None."""
    for name in names:
        if name in fields and (text := as_text(fields[name], codes)) is not None:
            return text
    return None
