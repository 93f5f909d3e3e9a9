"""Images in the cells of a table: bytes, structs, lists of numbers, base64, data: URIs, paths."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.sources.linked_files import Folder, unescaped
from curate.sources.records import MAX_IMAGE
from curate.sources.tables.columns import is_base64, is_binary, is_list, is_string

Loaded = tuple[bytes | None, str | None]
"""An image, and an error code when there is none."""

_BASE64 = re.compile(
    rb"([/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|AAAA[A-Za-z0-9+/]{2}Z0eXB)"
    rb"[A-Za-z0-9+/_\s-]{52,}={0,2}\s*"
)
"""Base64 of a JPEG, PNG, GIF, WebP, TIFF or AVIF, by its first bytes: no path has them and is as long as an image."""

_STARTS = pa.array([b"/9j/", b"_9j_", b"iVBO", b"R0lG", b"UklG", b"SUkq", b"TU0A", b"AAAA", b"data"], pa.binary())
"""The first four bytes of base64 and of data: URIs; images as they are never begin so."""

BYTES, PATH = "bytes", "path"
"""The fields of an image of HF datasets."""


def can_hold_images(kind: pa.DataType) -> bool:
    """Return whether a column may have images: bytes, strings, structs of these, lists of numbers, or lists of one of these."""
    inside = _decoded(kind)
    if is_list(inside) and not pa.types.is_integer(inside.value_type):
        inside = _decoded(inside.value_type)
    fields = {inside.field(i).name for i in range(inside.num_fields)} if pa.types.is_struct(inside) else set()
    numbers = is_list(inside) and pa.types.is_integer(inside.value_type)
    return is_binary(inside) or is_string(inside) or pa.types.is_null(inside) or numbers or bool(fields & {BYTES, PATH})


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def bytes_of(column: pa.Array, name: str) -> pa.Array | None:
    """Return an image column as bytes; None when some row needs a file opened or base64 decoded."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    kind = column.type
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.binary())
    if is_binary(kind):
        data = column if pa.types.is_large_binary(kind) else column.cast(pa.binary())
        return None if is_base64(name) or _some_base64(data) else data
    if is_list(kind) and pa.types.is_integer(kind.value_type):
        return _of_numbers(column)
    names = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    if BYTES not in names:
        return None
    within = pc.struct_field(column, BYTES)  # HF datasets: null bytes mean that the image is at the path
    if within.null_count and PATH in names:
        path = pc.struct_field(column, PATH)
        if pc.any(pc.and_(pc.is_null(within), pc.is_valid(path))).as_py():
            return None
    return bytes_of(within, name)


def _some_base64(data: pa.Array) -> bool:
    return bool(pc.any(pc.is_in(pc.binary_slice(data, 0, 4).cast(pa.binary()), _STARTS)).as_py())


def _of_numbers(column: pa.Array) -> pa.Array | None:
    """Return lists of numbers as bytes (Java's are signed); None where some number is no byte."""
    numbers = pc.fill_null(column.flatten(), 0).to_numpy(zero_copy_only=False)
    if len(numbers) and not -128 <= int(numbers.min()) <= int(numbers.max()) < 256:
        return None
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)).tolist()
    data = numbers.astype(np.uint8).tobytes()
    valid = column.is_valid().to_pylist()
    found = [data[begin:end] if there else None for begin, end, there in zip([0, *ends], ends, valid, strict=False)]
    return pa.array(found, pa.large_binary())


def load(value: object, column: str, folder: Folder) -> Loaded:
    """Return the image that a cell holds or points to, and an error code when there is none."""
    if isinstance(value, Mapping):
        within = value.get(BYTES)
        if isinstance(within, str) and within:
            return _from_base64(within.encode(errors="replace"))
        value = value.get(PATH) if within is None else within
    if value is None or value == "" or value == []:
        return None, "missing_image"
    if isinstance(value, list):
        return _from_numbers(value)
    if isinstance(value, (str, bytes)):
        return _from_string(value, column, folder)
    return None, "unsafe_path"


def _from_string(value: str | bytes, column: str, folder: Folder) -> Loaded:
    raw = value if isinstance(value, bytes) else value.encode(errors="replace")
    if raw[:5].lower() == b"data:":
        return _from_uri(raw)
    if is_base64(column) or _BASE64.fullmatch(raw):
        return _from_base64(raw)
    if isinstance(value, bytes):
        return (value, None) if len(value) <= MAX_IMAGE else (None, "image_too_large")
    return folder.load(value)


def load_cell(column: pa.Array, row: int, name: str, folder: Folder) -> Loaded:
    """Return the image of a row of a column as `load` does."""
    try:
        return load(column[row].as_py(), name, folder)
    except UnicodeDecodeError:
        return None, "unsafe_path"


def _from_numbers(value: list[object]) -> Loaded:
    numbers = [number % 256 for number in value if isinstance(number, int) and -128 <= number < 256]
    return (bytes(numbers), None) if len(numbers) == len(value) else (None, "bad_bytes")


def _from_uri(raw: bytes) -> Loaded:
    head, comma, body = raw.partition(b",")
    body = unescaped(body) if b"%" in body else body
    if not comma:
        return None, "bad_base64"
    return _from_base64(body) if head.lower().rstrip().endswith(b";base64") else (body, None)


def _from_base64(raw: bytes) -> Loaded:
    if raw[:5].lower() == b"data:":
        return _from_uri(raw)
    try:
        packed = b"".join(raw.split()).translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(packed, validate=True), None
    except binascii.Error:
        return None, "bad_base64"
