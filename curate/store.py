"""The output folder: facts and marks, who may write, and what a kill leaves behind.

Data is written under a name that carries the attempt; then the mark, which names it and whose content decides. Facts
are keyed by provider (code version, parameters) and shard fingerprint, never by a threshold.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from curate.contracts import ROW_GROUP
from curate.errors import OutputError

OUTPUTS = ("shards", "index", "decisions", "thumbs")
"""Folders that one recipe's run fills; facts and counts outlive it."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the name never holds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> Any | None:
    """Return the JSON of a file, or None when it is not there or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


class ParquetWriter:
    """The one way parquet is written: fixed row groups, no dictionaries, no times. Rows arrive in batches of any size.

    Bytes depend only on the rows: batches are cut and joined to groups of ROW_GROUP before they are written.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: Literal["zstd", "lz4"] = "zstd") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.schema = schema
        level = 1 if compression == "zstd" else None
        # zstd alone makes smaller files than behind a dictionary, and they are read three times as fast
        options = {"use_dictionary": False, "store_schema": False, "compression_level": level}
        self._writer = pq.ParquetWriter(path, schema, compression=compression, **options)
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows; columns are taken by name."""
        table = table.select(self.schema.names)
        self._waiting.append(table if table.schema.equals(self.schema) else table.cast(self.schema))
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            joined = pa.concat_tables(self._waiting)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                self._writer.write_table(joined.slice(start, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            rest = joined.slice(whole)
            self._waiting, self._rows = ([rest] if rest.num_rows else []), rest.num_rows

    def close(self) -> None:
        """Write the last, shorter group and the footer."""
        if self._rows or not self._waiting:
            rest = pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()
            self._writer.write_table(rest.combine_chunks(), row_group_size=ROW_GROUP)
        self._writer.close()


@dataclass(frozen=True)
class Store:
    """Where a run keeps what it knows. Picklable; every worker makes its own."""

    out: Path

    def facts(self, key: str, fingerprint: str) -> Path | None:
        """Return the committed facts of one provider and shard, or None."""
        folder = self.out / "facts" / key
        mark = read_json(folder / f"{fingerprint}.json")
        if mark is None:
            return None
        path = folder / str(mark["file"])
        return path if path.is_file() and path.stat().st_size == mark["size"] else None

    def mark_of_facts(self, key: str, fingerprint: str) -> dict[str, Any] | None:
        """Return what was committed beside the facts, or None when there are none."""
        if self.facts(key, fingerprint) is None:
            return None
        mark: dict[str, Any] = read_json(self.out / "facts" / key / f"{fingerprint}.json") or {}
        return mark

    @contextmanager
    def writing_facts(self, key: str, fingerprint: str, note: dict[str, Any] | None = None) -> Iterator[Path]:
        """Give the path to write to; commits it when the block ends, removes it when it raises. `note` joins the mark."""
        folder = self.out / "facts" / key
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{fingerprint}.{uuid.uuid4().hex[:8]}.parquet"
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        old = self.facts(key, fingerprint)
        write_json(folder / f"{fingerprint}.json", {"file": path.name, "size": path.stat().st_size, **(note or {})})
        if old is not None:
            old.unlink(missing_ok=True)

    def mark(self, run: str, name: str) -> dict[str, Any] | None:
        """Return the commit mark of a task of a run, or None."""
        found: dict[str, Any] | None = read_json(self.out / "marks" / run / f"{name}.json")
        return found

    def commit(self, run: str, name: str, content: dict[str, Any]) -> None:
        """Write a commit mark."""
        write_json(self.out / "marks" / run / f"{name}.json", content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold OUT for this process; the lock is gone with it, however it ends. Raises OutputError when another holds it."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise OutputError(f"{self.out} is not a folder; choose an empty or new one") from None
        if any(self.out.iterdir()) and not (self.out / ".lock").exists():
            raise OutputError(f"{self.out} is not empty and not an output of curate; choose an empty or new folder")
        with (self.out / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise OutputError(f"{self.out} is in use by {holder}; wait for it, or choose another --out") from None
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield

    def clear_outputs(self, run: str) -> None:
        """Remove what another recipe or input left, so that two results never mix; facts stay."""
        for name in ("manifest.json", "report.html", "sizes.json"):
            (self.out / name).unlink(missing_ok=True)
        marks = self.out / "marks"
        others = [path for path in marks.iterdir() if path.name != run] if marks.is_dir() else []
        if others or not marks.is_dir():
            for name in OUTPUTS:
                shutil.rmtree(self.out / name, ignore_errors=True)
        for path in others:
            shutil.rmtree(path)
        (marks / run).mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove attempts that a kill left without a mark. Only the holder of the lock may."""
        for folder in (self.out / "facts").glob("*"):
            named = {mark.get("file") for path in folder.glob("*.json") if (mark := read_json(path))}
            for path in folder.iterdir():
                if path.name not in named and (path.name.startswith(".") or not path.name.endswith(".json")):
                    path.unlink()
        for name in (*OUTPUTS, "marks/*", "counts/*"):
            for path in self.out.glob(f"{name}/.*"):
                path.unlink()
        for folder in (self.out / "counts").glob("*"):
            if not (folder / "counts.json").exists():
                shutil.rmtree(folder)
        for path in self.out.glob(".*.*"):  # a manifest or a report that was being written; the lock has no second dot
            path.unlink()
        shutil.rmtree(self.out / "work", ignore_errors=True)
