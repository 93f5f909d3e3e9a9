"""Lists of a run's files as parquet, beside the manifest: name, samples, bytes, sha256 of each file, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.core.contracts import ROW_GROUP
from curate.core.hashing import file_sha256
from curate.storage.backend import Storage
from curate.storage.marks import File
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store

LISTED = ("shards", "index", "decisions")
"""The folders of OUT that have a list of files."""

SIZES, WIDS_INDEX = "shards/sizes.json", "shards/index.json"
"""Files beside the tars that trainers look for; on no list."""

FOLDER = "manifest"

_AT_ONCE = 1 << 18  # names looked up at once: Arrow hashes the whole list for each look-up

SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # in its folder
        ("samples", pa.int64()),  # that it holds or names
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # hex
    ]
)


def list_name(folder: str) -> str:
    """Return the name in OUT of the list of a folder's files.

    >>> list_name("shards")
    'manifest/shards.parquet'
    """
    return f"{FOLDER}/{folder}.parquet"


@contextmanager
def writing_lists(store: Store) -> Iterator[FileLists]:
    """Write the lists; they appear in OUT when the block ends without an error."""
    with ExitStack() as held:
        lists = FileLists({folder: _List(held.enter_context(store.writing(list_name(folder)))) for folder in LISTED})
        yield lists
        lists.close()


class FileLists:
    """The lists of all folders while they are written."""

    def __init__(self, lists: Mapping[str, _List]) -> None:
        self._lists = lists

    def add(self, name: str, file: File) -> None:
        """List a file, by its name in OUT. Raises KeyError for a folder that has no list."""
        folder, _, name = name.partition("/")
        self._lists[folder].add(name, file)

    def close(self) -> None:
        """Write the last rows."""
        for one in self._lists.values():
            one.close()

    def described(self) -> dict[str, dict[str, Any]]:
        """Return totals by folder for the manifest (files, samples, bytes, the list's sha256), once everything is written."""
        return {folder: {"list": list_name(folder), **one.totals} for folder, one in self._lists.items()}


class _List:
    """Writes one list, with a row group in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer = path, ParquetWriter(path, SCHEMA)
        self._rows: list[tuple[str, int | None, int, str | None]] = []
        self.totals: dict[str, Any] = {"files": 0, "samples": 0, "bytes": 0}

    def add(self, name: str, file: File) -> None:
        self._rows.append((name, file.samples, file.bytes, file.sha256))
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        rows = pa.table(arrays, SCHEMA)
        self._writer.write(rows)
        self.totals["files"] += len(rows)
        for name in ("samples", "bytes"):
            self.totals[name] += pc.sum(rows[name]).as_py() or 0
        self._rows.clear()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self.totals["sha256"] = file_sha256(self._path)


def listed(out: Storage, folder: str) -> Iterator[tuple[str, File]]:
    """Yield name and description of the files of a folder, in order. Raises FileNotFoundError without a list, OSError."""
    with out.reading(list_name(folder)) as path:
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
            columns = (batch[name].to_pylist() for name in ("name", "bytes", "sha256", "samples"))
            for name, *file in zip(*columns, strict=True):
                yield name, File(*file)


@contextmanager
def _names(out: Storage, folder: str) -> Iterator[pa.Array]:
    with out.reading(list_name(folder)) as path:
        yield pq.read_table(path, columns=["name"])["name"].combine_chunks()


def unlisted(out: Storage, folder: str, list_of: str | None = None) -> Iterator[str]:
    """Yield the names of the files of a folder that are not in its list, or in that of the folder `list_of`. Raises OSError."""
    with _names(out, list_of or folder) as names:
        found = (one.name for one in out.listing(folder) if f"{folder}/{one.name}" not in (SIZES, WIDS_INDEX))
        while some := list(islice(found, _AT_ONCE)):
            here = pa.array(some, pa.string())
            yield from here.filter(pc.invert(pc.is_in(here, value_set=names))).to_pylist()
