"""Arrow IPC and what HF datasets save: every row is read, and a damaged file breaks the shard after its good rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.contracts import ShardBreak
from curate.core.errors import InputError
from curate.sources.listing import list_shards
from curate.sources.opening import read
from tests.tables import IMAGES, TEXTS, listed, rows, rows_of

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLE = pa.table(
    {
        "image": pa.array([{"bytes": data, "path": None} for data in IMAGES], CELL),
        "text": TEXTS,
        "meta": [{"alt": text[::-1]} for text in TEXTS],
        "score": [0.5, 1.5, 2.5],
    }
)


def stream(path: Path, table: pa.Table = TABLE, **options: Any) -> None:
    with pa.ipc.new_stream(path, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=2)


def file(path: Path, table: pa.Table = TABLE) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def feather(path: Path) -> None:
    pa.feather.write_feather(TABLE, str(path), compression="zstd")


def legacy(path: Path) -> None:
    stream(path, options=pa.ipc.IpcWriteOptions(use_legacy_format=True))


@pytest.mark.parametrize("write", [stream, file, feather, legacy])
def test_files_and_streams(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "t.arrow")
    found = rows(tmp_path / "t.arrow")
    assert [(row["image"], row["text"], row["key"]) for row in found] == [(IMAGES[i], TEXTS[i], f"t/{i}") for i in range(3)]
    assert [json.loads(row["input"]) for row in found] == [{"score": 0.5}, {"score": 1.5}, {"score": 2.5}]
    assert [row["text"] for row in rows(tmp_path / "t.arrow", {"text": "meta.alt"})] == [text[::-1] for text in TEXTS]


@pytest.mark.parametrize("write", [stream, file])
def test_lists_dictionaries_and_views(write: Callable[[Path, pa.Table], None], tmp_path: Path) -> None:
    columns = {
        "images": pa.array([[data, data] for data in IMAGES], pa.list_(pa.binary())),
        "text": pa.array(TEXTS).dictionary_encode(),
        "more": pa.array(TEXTS, pa.string_view()),
    }
    write(tmp_path / "t.arrow", pa.table(columns))
    assert [(row["image"], row["text"]) for row in rows(tmp_path / "t.arrow")] == [
        (IMAGES[i // 2], TEXTS[i // 2]) for i in range(6)
    ]


def test_a_table_of_addresses(tmp_path: Path) -> None:
    stream(tmp_path / "t.arrow", pa.table({"url": ["http://e.org/1"], "caption": ["t"]}))
    assert listed(tmp_path / "t.arrow")[0].on_the_web
    assert rows(tmp_path / "t.arrow")[0]["url"] == "http://e.org/1"


def test_texts_that_are_not_utf8(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"\xff!", b"y"], pa.binary()).view(pa.string())
    stream(tmp_path / "t.arrow", pa.table({"image": IMAGES, "text": texts}))
    assert [(row["text"], row["error"]) for row in rows(tmp_path / "t.arrow")] == [
        ("ok", None),
        ("\ufffd!", "text_not_utf8"),
        ("y", None),
    ]


def test_a_large_batch_comes_in_pieces(tmp_path: Path) -> None:
    data = [bytes([i]) * (3 << 20) for i in range(6)]
    stream_of_one = pa.table({"image": data, "text": ["t"] * 6})
    with pa.ipc.new_stream(tmp_path / "t.arrow", stream_of_one.schema) as writer:
        writer.write_table(stream_of_one)
    assert [row["image"] for row in rows(tmp_path / "t.arrow")] == data
    assert max(batch.nbytes for batch in read(listed(tmp_path / "t.arrow")[0])) < 10 << 20


@pytest.mark.parametrize("write", [stream, file])
def test_one_that_is_cut_off_breaks(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "t.arrow")
    whole = (tmp_path / "t.arrow").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "t.arrow").write_bytes(whole[:size])
        with pytest.raises(ShardBreak):
            list(read(listed(tmp_path / "t.arrow")[0]))
    (tmp_path / "t.arrow").write_bytes(whole[:-8])
    with pytest.raises(ShardBreak):
        list(read(listed(tmp_path / "t.arrow")[0]))


Changes = list[tuple[int, int]]
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CHANGES, st.booleans())
def test_a_damaged_one_only_breaks(tmp_path_factory: pytest.TempPathFactory, changes: Changes, is_file: bool) -> None:
    path = tmp_path_factory.mktemp("damaged") / "t.arrow"
    (file if is_file else stream)(path)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        for shard in listed(path):
            rows_of(shard)
    except (ShardBreak, InputError):
        pass


def saved(folder: Path, table: pa.Table, files: int = 1) -> None:
    """Write a table as `save_to_disk` does, and beside it what `map` keeps there."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        stream(folder / name, table.slice(i * len(table) // files, len(table) // files))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}}}))
    stream(folder / "cache-1c61622731152bb0.arrow", table)


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    saved(tmp_path / "saved", TABLE, 3)
    shards = listed(tmp_path / "saved")
    found = [row for shard in shards for row in rows_of(shard)]
    assert [row["image"] for row in found] == IMAGES
    assert [row["key"] for row in found] == [f"saved/data-{i:05d}-of-00003/0" for i in range(3)]


def test_all_splits_of_a_saved_dict_are_read_by_their_names(tmp_path: Path) -> None:
    saved(tmp_path / "d/train", TABLE)
    saved(tmp_path / "d/test", TABLE.slice(0, 1))
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = [row for shard in listed(tmp_path / "d") for row in rows_of(shard)]
    assert [row["key"].split("/")[0] for row in found] == ["test", "train", "train", "train"]
    assert len({row["key"] for row in found}) == 4


@pytest.mark.filterwarnings("ignore")
def test_what_the_real_datasets_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = {"image": [{"bytes": data, "path": None} for data in IMAGES], "text": TEXTS}
    whole = datasets.Dataset.from_dict(table, features=features)
    whole.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(str(tmp_path / "dict"))
    for name, count in (("saved", 1), ("dict", 2)):
        found = [row for shard in listed(tmp_path / name) for row in rows_of(shard)]
        assert [(row["image"], row["text"]) for row in found] == list(zip(IMAGES, TEXTS, strict=True)) * count


def test_a_remote_saved_folder(tmp_path: Path) -> None:
    saved(tmp_path / "saved", TABLE)
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "saved"), "/arrow-test/", recursive=True)
    shards = list(list_shards(["memory://arrow-test"], {}))
    assert [row["image"] for shard in shards for row in rows_of(shard)] == IMAGES
