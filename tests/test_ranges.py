"""Remote files as DuckDB reads them: exact ranges, a position for each thread, names that are no patterns."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.storage.duckdb_files import Ranges

FOLDER = "/ranges o[u]t*'1"


@pytest.fixture
def ranges() -> Iterator[Ranges]:
    """Return the files of this process's memory."""
    memory = fsspec.filesystem("memory")
    yield Ranges("memory://")
    for path in memory.find(FOLDER):
        memory.rm_file(path)


def put(name: str, data: bytes) -> str:
    fsspec.filesystem("memory").pipe_file(f"{FOLDER}/{name}", data)
    return f"memory:/{FOLDER}/{name}"


def test_every_thread_reads_where_it_has_sought(ranges: Ranges) -> None:
    file = ranges.open(put("digits", b"0123456789"))
    file.seek(2)
    found = []

    def other() -> None:
        file.seek(7)
        found.append(file.read(2))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert (found, file.read(3), file.read(1)) == ([b"78"], b"234", b"5")


def test_duckdb_reads_files_whose_names_look_like_patterns(ranges: Ranges) -> None:
    urls = []
    for number in range(3):
        file = io.BytesIO()
        pq.write_table(pa.table({"a": range(number * 1000, number * 1000 + 1000)}), file, row_group_size=100)
        urls.append(put(f"{number}.parquet", file.getvalue()))
    with duckdb.connect() as connection:
        connection.register_filesystem(ranges)
        found = connection.execute("SELECT filename, sum(a) FROM read_parquet($1, filename = true) GROUP BY 1 ORDER BY 1", [urls])
        assert found.fetchall() == [(url, sum(range(n * 1000, n * 1000 + 1000))) for n, url in enumerate(urls)]


def test_the_size_of_a_file_is_asked_for_once(ranges: Ranges, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": range(1000)}), file)
    url, asked = put("0.parquet", file.getvalue()), list[str]()
    memory, info = fsspec.filesystem("memory"), type(fsspec.filesystem("memory")).info

    def counted(self: object, path: str, **more: object) -> object:
        asked.append(path)
        return info(self, path, **more)

    monkeypatch.setattr(type(memory), "info", counted)
    with duckdb.connect() as connection:
        connection.register_filesystem(Ranges("memory://"))
        for _ in range(3):
            connection.execute("SELECT sum(a) FROM read_parquet($1)", [[url]]).fetchall()
    assert len(set(asked)) == 1 and len(asked) <= 2
