"""The log of fetched images: the last word on a row counts, attempts cannot undo each other, what no mark names goes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from curate.core.contracts import Shard
from curate.fetch.image_log import SCHEMA, FetchedImages, ImageLog, open_images
from curate.storage.backend import storage
from curate.storage.parquet import ParquetWriter
from curate.storage.store import FETCHED, FETCHED_TARS, Store
from curate.storage.tar import member_header

SHARD = Shard(3, "urls.parquet", "parquet", 1, "0123456789abcdef", None, (("url", "u"), ("text", "t")), on_the_web=True)


def fill(tar: Path, facts: Path, answers: dict[int, bytes | str]) -> None:
    """Write a piece: images, or the codes of failures, by row."""
    rows = []
    with tar.open("wb") as file:
        for row, answer in answers.items():
            image = answer if isinstance(answer, bytes) else None
            if image is not None:
                file.write(member_header(f"{row:012d}", len(image)))
            place = None if image is None else file.tell()
            file.write(image or b"")
            code = answer if isinstance(answer, str) else "ok"
            known_facts = {"row": row, "fetched": code, "offset": place, "bytes": image and len(image)}
            rows.append({name: known_facts.get(name) for name in SCHEMA.names})
    writer = ParquetWriter(facts, SCHEMA, "lz4")
    writer.write(pa.Table.from_pylist(rows, schema=SCHEMA))
    writer.close()


def write(store: Store, answers: dict[int, bytes | str]) -> None:
    with ImageLog(store, SHARD).writing() as piece:
        fill(piece.tar, piece.facts, answers)


def known(store: Store) -> dict[int, tuple[str, bytes | None]]:
    """Return what is known of each row that was asked for."""
    with open_images(store, SHARD) as images:
        assert isinstance(images, FetchedImages)
        table = images.table
        answers = zip(table["fetched"].to_pylist(), images.images(table), strict=True)
        return dict(zip(table["row"].to_pylist(), answers, strict=True))


@pytest.fixture
def store(tmp_path):
    return Store(storage(tmp_path / "out"))


def test_the_last_word_on_a_row_counts(store):
    assert known(store) == {}
    write(store, {0: b"zero", 5: "timeout", 2: b"two"})
    write(store, {7: b"seven", 5: b"five", 8: "http_404"})
    write(store, {8: "http_410"})
    assert known(store) == {
        0: ("ok", b"zero"), 2: ("ok", b"two"), 5: ("ok", b"five"), 7: ("ok", b"seven"), 8: ("http_410", None),
    }  # fmt: skip


def test_many_pieces_are_read_through_few_open_files(store):
    for row in range(12):
        write(store, {row: b"image %d" % row})
    assert known(store) == {row: ("ok", b"image %d" % row) for row in range(12)}


def test_base_facts_with_what_is_known(store):
    write(store, {4: b"four", 2: "robots"})
    names = ("row", "url", "offset", "bytes", "sha256")
    base = pa.RecordBatch.from_pydict({name: pa.nulls(6, pa.string()) for name in names} | {"row": range(6)})
    with FetchedImages(store, SHARD) as fetched:
        found = fetched.overlay(base).to_pydict()
    assert found["fetched"] == [None, None, "robots", None, "ok", None] and found["bytes"] == [None] * 4 + [4, None]


def test_two_attempts_at_one_shard_cannot_undo_each_other(store):
    with pytest.raises(RuntimeError, match="another attempt"), ImageLog(store, SHARD).writing() as piece:
        fill(piece.tar, piece.facts, {1: b"slow"})
        write(store, {1: b"quick"})
    assert known(store) == {1: ("ok", b"quick")}
    store.sweep()
    assert len(list(store.storage.listing(FETCHED_TARS))) == 1 and len(list(store.storage.listing(f"facts/{FETCHED}"))) == 2
    assert known(store) == {1: ("ok", b"quick")}


def test_a_piece_that_fails_is_none(store):
    with pytest.raises(ZeroDivisionError), ImageLog(store, SHARD).writing() as piece:
        fill(piece.tar, piece.facts, {1: b"one"})
        raise ZeroDivisionError
    assert known(store) == {} and not list(store.storage.listing(FETCHED_TARS))
