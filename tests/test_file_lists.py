"""The lists of files beside the manifest: all or nothing, row groups, sums, and what is on no list."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.core.contracts import ROW_GROUP
from curate.core.hashing import file_sha256
from curate.driver.manifest import write_lists
from curate.storage.backend import storage
from curate.storage.file_lists import LISTED, SCHEMA, SIZES, WIDS_INDEX, list_name, listed, unlisted, writing_lists
from curate.storage.marks import File, Mark
from curate.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(storage(tmp_path))


def block(number: int, error: str | None = None) -> Mark:
    """Return the mark of a block of two shards and one tar."""
    shards = (2 * number, 2 * number + 1)
    decided = {at: {f"decisions/{at:06d}.parquet": File(5, "aa", 1)} for at in shards}
    parts = {f"{at:06d}": Mark(files, {"records": 3, "kept": 1}, error) for at, files in decided.items()}
    files = {f"shards/{number:05d}.tar": File(9, "bb", 2), f"index/{number:05d}.parquet": File(4, "cc", 2)}
    return Mark(files, made_with="x", parts=parts)


def test_lists_hold_every_file_and_the_manifest_their_sums(store: Store, tmp_path: Path) -> None:
    count = ROW_GROUP + 3
    summary = write_lists(store, map(block, range(count)))
    assert (summary.tally["records"], summary.tally["kept"], summary.broken) == (6 * count, 2 * count, {})
    for folder, files, size in (("shards", count, 9), ("index", count, 4), ("decisions", 2 * count, 5)):
        path = tmp_path / list_name(folder)
        totals = {"files": files, "samples": 2 * count, "bytes": files * size, "sha256": file_sha256(path)}
        assert summary.files[folder] == {"list": list_name(folder), **totals}
        assert pq.read_schema(path).equals(SCHEMA)
        assert len(list(listed(store.storage, folder))) == files
    sizes = {name: file.samples for name, file in listed(store.storage, "shards")}
    assert (tmp_path / SIZES).read_text() == json.dumps(sizes, indent=1, sort_keys=True) + "\n"
    tars = json.loads((tmp_path / WIDS_INDEX).read_text())["shardlist"]
    assert {tar["url"]: tar["nsamples"] for tar in tars} == sizes


def test_without_blocks_everything_is_there_and_empty(store: Store, tmp_path: Path) -> None:
    summary = write_lists(store, [])
    assert [list(listed(store.storage, folder)) for folder in LISTED] == [[], [], []]
    assert (tmp_path / SIZES).read_text() == "{}\n"
    assert summary.files["shards"]["files"] == 0


def test_broken_shards_are_in_the_summary(store: Store) -> None:
    assert write_lists(store, [block(0), block(1, "cut off")]).broken == {2: "cut off", 3: "cut off"}


def test_files_on_no_list_are_removed(store: Store, tmp_path: Path) -> None:
    kept = ["shards/00000.tar", "index/00000.parquet", "decisions/000001.parquet", "thumbs/000001.parquet"]
    stray = ["shards/00001.tar", "index/00001.parquet", "decisions/000002.parquet", "thumbs/000002.parquet"]
    for name in kept + stray:
        store.storage.write(name, b"x")
    write_lists(store, [block(0)])
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("[sidt]*/*")} == {*kept, SIZES, WIDS_INDEX}
    store.storage.write("shards/00007.tar", b"x")
    assert list(unlisted(store.storage, "shards")) == ["00007.tar"]


def test_an_error_leaves_no_list(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing_lists(store) as lists:
        lists.add("shards/a.tar", File(1))
        raise ZeroDivisionError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
