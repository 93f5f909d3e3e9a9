"""Parquet files of samples, as Hugging Face `datasets` writes and reads them: an image is struct{bytes, path}.

The columns beside the image are what `key.json` says, under its names; `json` is all of it. They are the same in every file of
an output: what a record brings along from its input, of any types, is in `json` alone.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP
from curate.core.hashing import file_sha256
from curate.storage.parquet import open_writer
from curate.storage.samples.contract import Packed

SUFFIX = ".parquet"

GROUP_BYTES = 32 << 20
"""Bytes of samples after which a row group ends: a reader holds one."""

_TEXT = {"text_no": pa.int16(), "source": pa.string(), "text": pa.string()}

_HEAD = {"key": pa.string(), "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "text": pa.string()}
"""Columns that do not come from key.json."""

_OF_RECORD = {
    "url": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "sha256": pa.string(),
    "language": pa.string(),
    "language_score": pa.float64(),
}

_HUGGING_FACE = b"huggingface"


def is_ours(names: Sequence[str]) -> bool:
    """Return whether a table with these columns is one of our files of samples; names with dots are of fields inside them."""
    return [name for name in names if name != "evidence" and "." not in name] == [*_HEAD, "texts", *_OF_RECORD, "json"]


@dataclass(frozen=True)
class ParquetKind:
    """Parquet files with these columns."""

    schema: pa.Schema
    suffix: str = SUFFIX

    @classmethod
    def of(cls, scores: Mapping[str, pa.DataType], evidence: Mapping[str, pa.DataType]) -> ParquetKind:
        """Return the kind with these scores of a text and this evidence of a record, by filter: scalars, the others are left out.

        Numbers that are not whole are float64, as JSON has them.
        """
        texts = pa.struct(list({**_scalars(scores), **_TEXT}.items()))
        columns = {**_HEAD, "texts": pa.list_(texts), **_OF_RECORD}
        if found := _scalars(evidence):  # parquet has no struct without fields
            columns["evidence"] = pa.struct(list(found.items()))
        schema = pa.schema([*columns.items(), ("json", pa.string())])
        return cls(schema.with_metadata({_HUGGING_FACE: _features(schema)}))

    @classmethod
    def like(cls, path: Path) -> ParquetKind:
        """Return the kind of a file. Raises OSError, pyarrow.ArrowException."""
        return cls(pq.read_schema(path))

    def writer(self, path: Path) -> ParquetSampleWriter:
        """Begin a file."""
        return ParquetSampleWriter(path, self.schema)


def _scalars(types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    found = {name: pa.float64() if pa.types.is_floating(kind) else kind for name, kind in types.items()}
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_float64, pa.types.is_string)
    return {name: kind for name, kind in found.items() if any(test(kind) for test in tests)}


def _features(schema: pa.Schema) -> bytes:
    """Return the metadata by which `datasets` knows that `image` is one."""
    told = {field.name: {"_type": "Image"} if field.name == "image" else _feature(field.type) for field in schema}
    return json.dumps({"info": {"features": told}}, ensure_ascii=False).encode()


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]  # every version of datasets reads this form of a list
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": "float64" if pa.types.is_float64(kind) else str(kind), "_type": "Value"}


class ParquetSampleWriter:
    """Writes a parquet file of samples. A row group ends after ROW_GROUP samples, or with the one that fills GROUP_BYTES."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._writer = open_writer(path, schema)
        self._writer.add_key_value_metadata(schema.metadata or {})
        self._rows: list[dict[str, Any]] = []
        self._bytes, self._place = 0, 0

    def __enter__(self) -> ParquetSampleWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.close()

    def add(self, sample: Packed) -> int:
        """Append a sample; return its row."""
        self._rows.append(self._row(sample))
        self._bytes += len(sample.image) + 2 * len(sample.about) + len(sample.text)
        if self._bytes >= GROUP_BYTES or len(self._rows) == ROW_GROUP:
            self._flush()
        self._place += 1
        return self._place - 1

    def _row(self, sample: Packed) -> dict[str, Any]:
        about = json.loads(sample.about)
        told = {name: about.get(name) for name in self._schema.names if name not in _HEAD}
        image = {"bytes": sample.image, "path": f"{sample.key}.{sample.extension}"}
        return {**told, "key": sample.key, "image": image, "text": sample.text.decode(), "json": sample.about.decode()}

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0

    def close(self) -> str:
        """Write the last group and the footer; return the file's sha256."""
        if self._rows:
            self._flush()
        self._writer.close()
        return file_sha256(self._path)


class ParquetSampleReader:
    """Reads one of our own parquet files of samples, with one row group in memory."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False)
        about = self._file.metadata
        self._ends = list(accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups)))
        self._group, self._held = -1, pa.table({})

    def __enter__(self) -> ParquetSampleReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def _row(self, place: int) -> Packed:
        """Return the sample of a row. Raises IndexError where there is none."""
        if not 0 <= place < (self._ends or [0])[-1]:
            raise IndexError(f"there is no row {place}")
        group = bisect_right(self._ends, place)
        if group != self._group:
            self._held = pa.table({})  # not two groups at once
            self._held = self._file.read_row_group(group, columns=["key", "image", "text", "json"], use_threads=False)
            self._group = group
        at = place - (self._ends[group - 1] if group else 0)
        row = {name: self._held[name][at].as_py() for name in self._held.column_names}
        extension = str(row["image"]["path"]).rpartition(".")[2]
        return Packed(row["key"], extension, row["image"]["bytes"], row["json"].encode(), row["text"].encode())

    def image(self, place: int, size: int) -> bytes:
        """Return the image of a row; empty where there is no such row."""
        return self._row(place).image if place < (self._ends or [0])[-1] else b""

    def about(self, place: int, size: int) -> bytes:
        """Return key.json of a row."""
        return self._row(place).about

    def __iter__(self) -> Iterator[Packed]:
        """Yield all samples in order."""
        for place in range((self._ends or [0])[-1]):
            yield self._row(place)
