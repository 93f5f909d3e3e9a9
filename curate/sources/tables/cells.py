"""Images in the cells of a table: bytes, structs, base64, paths."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from curate.sources.linked_files import Folder
from curate.sources.records import MAX_IMAGE
from curate.sources.tables.columns import is_base64, is_binary


def _bytes_of(column: pa.Array, name: str) -> pa.Array | None:
    """Return an image column as bytes; None when some row needs a file opened or base64 decoded."""
    if is_binary(column.type) and not is_base64(name):
        return column if pa.types.is_large_binary(column.type) else column.cast(pa.binary())
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.binary())
    kind = column.type
    names = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    if "bytes" not in names or not is_binary(kind.field(names.index("bytes")).type):
        return None
    data = pc.struct_field(column, "bytes")  # HF datasets: null bytes mean that the image is at the path
    if data.null_count and "path" in names:
        path = pc.struct_field(column, "path")
        if pc.any(pc.and_(pc.is_null(data), pc.is_valid(path))).as_py():
            return None
    return data


def load(value: object, column: str, folder: Folder) -> tuple[bytes | None, str | None]:
    """Return the image that a cell holds or points to, and an error code when there is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None or value == "":
        return None, "missing_image"
    if is_base64(column) and isinstance(value, (str, bytes)):
        return _from_base64(value)
    if isinstance(value, bytes):
        return (value, None) if len(value) <= MAX_IMAGE else (None, "image_too_large")
    if isinstance(value, str):
        return folder.load(value)
    return None, "unsafe_path"


def _load_cell(column: pa.Array, row: int, name: str, folder: Folder) -> tuple[bytes | None, str | None]:
    try:
        return load(column[row].as_py(), name, folder)
    except UnicodeDecodeError:
        return None, "unsafe_path"


def _from_base64(value: str | bytes) -> tuple[bytes | None, str | None]:
    try:
        raw = value.encode() if isinstance(value, str) else value
        if raw.startswith(b"data:"):
            raw = raw.partition(b",")[2]
        return base64.b64decode(b"".join(raw.split()), validate=True), None
    except (binascii.Error, UnicodeEncodeError):
        return None, "bad_base64"
