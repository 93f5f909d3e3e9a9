"""Columns of images and captions as tools write them: each row's picture and text is found, or the message names the column."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core.errors import InputError
from tests.tables import IMAGES, TEXTS, listed, rows

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CELLS = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(IMAGES)]
BASE64 = [base64.b64encode(data).decode() for data in IMAGES]
LINES = [base64.encodebytes(data).decode() for data in IMAGES]


def uri(data: str) -> str:
    return "data:image/jpeg;base64," + data


def percent(data: bytes) -> str:
    return "data:image/jpeg," + "".join(f"%{byte:02x}" for byte in data)


def write(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet", **options)
    return folder / "t.parquet"


KINDS: dict[str, pa.Array] = {
    "binary": pa.array(IMAGES),
    "large_binary": pa.array(IMAGES, pa.large_binary()),
    "binary_view": pa.array(IMAGES, pa.binary_view()),
    "dictionary": pa.array(IMAGES).dictionary_encode(),
    "fixed": pa.array([data.ljust(1000, b"\0") for data in IMAGES], pa.binary(1000)),
    "struct": pa.array(CELLS, CELL),
    "struct of dictionary": pa.StructArray.from_arrays([pa.array(IMAGES).dictionary_encode()], ["bytes"]),
    "list": pa.array([[cell] for cell in CELLS], pa.list_(CELL)),
    "large list of bytes": pa.array([[data] for data in IMAGES], pa.large_list(pa.large_binary())),
    "uint8": pa.array([list(data) for data in IMAGES], pa.list_(pa.uint8())),
    "int8": pa.array([[(byte + 128) % 256 - 128 for byte in data] for data in IMAGES], pa.list_(pa.int8())),
    "int64": pa.array([list(data) for data in IMAGES], pa.large_list(pa.int64())),
    "list of uint8": pa.array([[list(data)] for data in IMAGES], pa.list_(pa.list_(pa.uint8()))),
    "struct of uint8": pa.array([{"bytes": list(data)} for data in IMAGES], pa.struct([("bytes", pa.list_(pa.uint8()))])),
    "base64": pa.array(BASE64),
    "base64 in lines": pa.array(LINES, pa.large_string()),
    "base64 as bytes": pa.array([data.encode() for data in BASE64]),
    "base64 in a struct": pa.array([{"bytes": data, "path": None} for data in BASE64]),
    "base64 of URLs": pa.array([base64.urlsafe_b64encode(data).decode() for data in IMAGES]),
    "uri": pa.array([uri(data) for data in BASE64]).dictionary_encode(),
    "uri with escapes": pa.array([uri(data.replace("+", "%2B").replace("/", "%2F")) for data in BASE64]),
    "uri without base64": pa.array([percent(data) for data in IMAGES]),
    "list of uris": pa.array([[uri(data)] for data in BASE64]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_type(kind: str, tmp_path: Path) -> None:
    write(tmp_path, {"image": KINDS[kind], "text": TEXTS})
    found = rows(tmp_path / "t.parquet")
    assert [row["image"].rstrip(b"\0") for row in found] == IMAGES
    assert [(row["key"], row["text"], row["error"]) for row in found] == [(f"t/{i}", TEXTS[i], None) for i in range(3)]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_pictures_in_tables_of_text(name: str, tmp_path: Path) -> None:
    values: list[Any] = [BASE64[0], uri(BASE64[1]), "a%20b.jpg"]
    (tmp_path / "a%20b.jpg").write_bytes(IMAGES[2])
    if name == "t.jsonl":
        values += [list(IMAGES[0]), {"bytes": BASE64[1], "path": None}, {"path": "a%20b.jpg"}]
        lines = [json.dumps({"image": value, "text": "t"}) for value in values]
    else:
        lines = ["image,text", *(f'"{value}",t' for value in values)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert [row["image"] for row in rows(tmp_path / name)] == (IMAGES * 2)[: len(values)]


def test_paths_as_they_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "sub dir/ä.jpg").write_bytes(b"a")
    (folder / "50%25.jpg").write_bytes(b"b")
    (tmp_path / "out.jpg").write_bytes(b"secret")
    names = {
        "sub dir/ä.jpg": b"a",
        "./sub dir/ä.jpg": b"a",
        "sub dir\\ä.jpg": b"a",
        f"{folder}/sub dir/ä.jpg": b"a",
        f"file://{folder}/sub%20dir/%C3%A4.jpg": b"a",
        f"FILE://localhost{folder}/sub%20dir/%c3%a4.jpg": b"a",
        f"file:{folder}/sub%20dir/%C3%A4.jpg": b"a",
        f"file://{folder}/50%25.jpg": b"b",
        f"file://{tmp_path}/out.jpg": None,
        "file://%2e%2e/out.jpg": None,
        "..\\out.jpg": None,
    }
    write(folder, {"image": list(names), "text": ["t"] * len(names)})
    found = rows(folder / "t.parquet")
    assert {name: row["image"] for name, row in zip(names, found, strict=True)} == names
    assert [row["error"] for row in found[-3:]] == ["unsafe_path", "unsafe_path", "unsafe_path"]


def test_bytes_that_are_null_are_at_their_path(tmp_path: Path) -> None:
    for i, data in enumerate(IMAGES):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    cells = [{"bytes": None, "path": f"{i}.jpg"} for i in range(3)]
    write(tmp_path, {"image": pa.array(cells, CELL), "text": TEXTS})
    assert [row["image"] for row in rows(tmp_path / "t.parquet")] == IMAGES


SEVERAL = [[0, 1], [2], [], None, [None, 0]]
"""Which pictures each row has."""


def several(path: Path) -> Path:
    """Write a table of rows with several pictures."""
    cells = [None if row is None else [None if i is None else CELLS[i] for i in row] for row in SEVERAL]
    texts = [f"text {i}" for i in range(len(SEVERAL))]
    if path.suffix == ".parquet":
        columns = {"images": pa.array(cells, pa.list_(CELL)), "text": texts, "uid": list("abcde"), "score": [1, 2, 3, 4, 5]}
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return path
    of = [None if row is None else [None if i is None else uri(BASE64[i]) for i in row] for row in SEVERAL]
    lines = [{"images": of[i], "text": texts[i], "uid": "abcde"[i], "score": i + 1} for i in range(len(SEVERAL))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_each_picture_of_a_row_is_a_record(name: str, tmp_path: Path) -> None:
    found = rows(several(tmp_path / name))
    assert [row["image"] for row in found] == [IMAGES[0], IMAGES[1], IMAGES[2], None, None, None, IMAGES[0]]
    assert [row["key"] for row in found] == ["a/0", "a/1", "b", "c", "d", "e/0", "e/1"]
    assert [row["text"] for row in found] == [f"text {i}" for i in (0, 0, 1, 2, 3, 4, 4)]
    assert [json.loads(row["input"])["score"] for row in found] == [1, 1, 2, 3, 4, 5, 5]
    assert [row["error"] for row in found] == [None] * 3 + ["missing_image"] * 3 + [None]


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_each_address_of_a_row_is_a_record(name: str, tmp_path: Path) -> None:
    urls = [["http://e.org/0", "http://e.org/1"], [], ["http://e.org/2"]]
    for column in ("image_urls", "images"):
        if name == "t.parquet":
            write(tmp_path, {column: pa.array(urls, pa.list_(pa.string())), "text": TEXTS})
        else:
            lines = [json.dumps({column: some, "text": text}) for some, text in zip(urls, TEXTS, strict=True)]
            (tmp_path / name).write_text("\n".join(lines))
        [shard] = listed(tmp_path / name)
        assert shard.on_the_web
        found = rows(tmp_path / name)
        assert [row["url"] for row in found] == ["http://e.org/0", "http://e.org/1", None, "http://e.org/2"]
        assert [row["text"] for row in found] == [TEXTS[i] for i in (0, 0, 1, 2)]


def test_many_pictures_of_few_rows_come_in_bounded_batches(tmp_path: Path) -> None:
    write(tmp_path, {"urls": [["http://e.org"] * 9000, ["http://e.org"]], "text": ["s", "t"]})
    assert [row["text"] for row in rows(tmp_path / "t.parquet")] == ["s"] * 9000 + ["t"]


META = [{"caption": text, "deep": {"alt": text[::-1]}} for text in TEXTS]


@pytest.mark.parametrize(("name", "wanted"), [("meta.caption", TEXTS), ("meta.deep.alt", [text[::-1] for text in TEXTS])])
@pytest.mark.parametrize("file", ["t.parquet", "t.jsonl"])
def test_a_caption_inside_of_a_struct(file: str, name: str, wanted: list[str], tmp_path: Path) -> None:
    if file == "t.parquet":
        write(tmp_path, {"image": IMAGES, "meta": META, "text": ["no"] * 3})
    else:
        rows_ = [{"image": uri(data), "meta": meta, "text": "no"} for data, meta in zip(BASE64, META, strict=True)]
        (tmp_path / file).write_text("\n".join(map(json.dumps, rows_)))
    found = rows(tmp_path / file, {"text": name})
    assert [(row["text"], row["image"]) for row in found] == list(zip(wanted, IMAGES, strict=True))


def test_a_column_of_that_name_comes_before_a_field(tmp_path: Path) -> None:
    write(tmp_path, {"image": IMAGES, "meta": META, "meta.caption": ["x", "y", "z"]})
    assert [row["text"] for row in rows(tmp_path / "t.parquet", {"text": "meta.caption"})] == ["x", "y", "z"]


def test_fields_of_nulls_are_null(tmp_path: Path) -> None:
    write(tmp_path, {"image": IMAGES, "meta": [META[0], None, {"caption": None}]})
    assert [row["text"] for row in rows(tmp_path / "t.parquet", {"text": "meta.caption"})] == [TEXTS[0], None, None]


@pytest.mark.parametrize(
    "texts",
    [pa.array(TEXTS, pa.large_string()), pa.array(TEXTS).dictionary_encode(), pa.array(TEXTS, pa.string_view())],
    ids=["large", "dictionary", "view"],
)
def test_captions_of_every_type(texts: pa.Array, tmp_path: Path) -> None:
    write(tmp_path, {"image": IMAGES, "text": texts})
    assert [row["text"] for row in rows(tmp_path / "t.parquet")] == TEXTS


def test_a_webdataset_that_the_hub_turned_into_parquet(tmp_path: Path) -> None:
    told = [{"caption": text, "url": f"http://e.org/{i}.jpg"} for i, text in enumerate(TEXTS)]
    columns = {"__key__": ["a", "b", "c"], "__url__": ["x.tar"] * 3, "jpg": pa.array(CELLS, CELL), "json": told}
    found = rows(write(tmp_path, columns))
    assert [(row["key"], row["text"], row["image"]) for row in found] == list(zip("abc", TEXTS, IMAGES, strict=True))
    assert found[1]["url"] == "http://e.org/1.jpg"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [{"src": "x", "height": 1}] * 3, "text": TEXTS}, "column image cannot hold images, .*field of it: image.src"),
        ({"image": [[[[1]]]] * 3, "text": TEXTS}, "column image cannot hold images"),
        ({"image": [1.5] * 3, "text": TEXTS}, "column image cannot hold images"),
        ({"image": IMAGES, "text": META}, "column text cannot hold texts, .*field of it: text.caption, text.deep"),
        ({"image": IMAGES, "chat": [[{"from": "x", "value": "y"}]] * 3}, "no text column among image, chat"),
    ],
)
def test_what_cannot_be_images_or_texts_is_named(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, columns)
    with pytest.raises(InputError, match=message) as error:
        listed(tmp_path / "t.parquet")
    assert "\n" not in str(error.value)


def test_numbers_that_are_no_bytes(tmp_path: Path) -> None:
    write(tmp_path, {"image": [[1, 256], [255], None], "text": TEXTS})
    assert [(row["image"], row["error"]) for row in rows(tmp_path / "t.parquet")] == [
        (None, "bad_bytes"),
        (b"\xff", None),
        (None, "missing_image"),
    ]


@pytest.mark.filterwarnings("ignore")
def test_parquet_that_datasets_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"images": datasets.List(datasets.Image()), "texts": datasets.List(datasets.Value("string"))})
    table = {"images": [[cell] for cell in CELLS], "texts": [["a boat", "a red boat"]] * 3}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "t.parquet"))
    found = rows(tmp_path / "t.parquet")
    assert [row["image"] for row in found] == IMAGES
    assert {(row["text"], *row["more_texts"]) for row in found} == {("a boat", "a red boat")}
