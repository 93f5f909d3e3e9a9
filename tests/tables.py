"""What the tests of tables share: pictures, and the records of a file read twice, with and without their images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from curate.core.contracts import RECORD_SCHEMA, ROW_GROUP, Shard
from curate.sources.listing import list_shards
from curate.sources.opening import images, read
from curate.sources.records import ERRORS

TEXTS = [f"a boat number {i} by the pier" for i in range(3)]

Row = dict[str, Any]


def picture(number: int) -> bytes:
    """Return a small JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (80 * number, 20, 20)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [picture(i) for i in range(3)]


def rows_of(shard: Shard) -> list[Row]:
    """Return the records of a shard; what holds for every source is checked."""
    found = list(read(shard))
    assert all(batch.schema == RECORD_SCHEMA and 0 < batch.num_rows <= ROW_GROUP for batch in found)
    rows: list[Row] = [row for batch in found for row in batch.to_pylist()]
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert {code for row in rows if row["error"] for code in row["error"].split(",")} <= set(ERRORS)
    for some in (rows, rows[1::2]):  # a later pass asks for the images of some
        asked = {"row": [row["row"] for row in some], "offset": [None] * len(some), "bytes": [None] * len(some)}
        assert list(images(shard, pa.table(asked))) == [row["image"] for row in some]
    return rows


def listed(path: Path | str, columns: Mapping[str, str] | None = None) -> list[Shard]:
    return list(list_shards([str(path)], columns or {}))


def rows(path: Path | str, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Return the records of the only shard of a file."""
    [shard] = listed(path, columns)
    return rows_of(shard)
