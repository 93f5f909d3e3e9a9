"""Tables that are one JSON text: read value by value, each row is found, and what is wrong is said with its place."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.contracts import ShardBreak
from curate.core.errors import InputError
from curate.sources.listing import list_shards
from curate.sources.opening import read
from curate.sources.tables import json_file, json_values
from curate.sources.tables.json_file import rows_of
from curate.sources.tables.json_values import Scanner
from tests.tables import IMAGES, TEXTS, listed, rows

PAIRS = [{"caption": text, "url": f"http://a.example/{i}.jpg"} for i, text in enumerate(TEXTS)]
LISTS = {"image_urls": [pair["url"] for pair in PAIRS], "captions": TEXTS, "user_ids": [1, 2, 3]}


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}

FORMS: dict[str, str] = {
    "array": json.dumps(PAIRS),
    "array of indented objects": json.dumps(PAIRS, indent=2),
    "lists": json.dumps(LISTS),
    "indented lists": json.dumps(LISTS, indent=1) + "\n",
    "within an object": json.dumps({"version": 1, "by": "x", "data": PAIRS}),
    "rows by name": json.dumps({f"n{i}": pair for i, pair in enumerate(PAIRS)}),
    "pandas": pd.DataFrame(LISTS).to_json(),
    "pandas records": pd.DataFrame(PAIRS).to_json(orient="records"),
    "pandas index": pd.DataFrame(PAIRS).to_json(orient="index"),
    "lines": "\n".join(map(json.dumps, PAIRS)) + "\n",
    "objects without newlines": "".join(map(json.dumps, PAIRS)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", PACKED)
def test_every_form_gives_its_pairs(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / ("t.json" + suffix)
    path.write_bytes(PACKED[suffix](FORMS[form].encode()))
    found = rows(path)
    assert [(row["url"], row["text"], row["error"]) for row in found] == [(p["url"], p["caption"], None) for p in PAIRS]
    assert listed(path)[0].on_the_web
    if "lists" in form or form == "pandas":
        assert [json.loads(row["input"]) for row in found] == [{"user_ids": i} for i in (1, 2, 3)]


@pytest.mark.parametrize("suffix", PACKED)
def test_an_object_too_large_to_read_whole(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "WHOLE", 1000)
    monkeypatch.setattr(json_values, "_CHUNK", 64)
    urls = [f"http://a.example/{i}" for i in range(500)]
    lists = {"about": {"by": "ä"}, "image_urls": urls, "captions": [f"ä text {i}" for i in range(500)], "n": 3}
    path = tmp_path / ("t.json" + suffix)
    path.write_bytes(PACKED[suffix](json.dumps(lists, ensure_ascii=False).encode()))
    assert [(row["url"], row["text"]) for row in rows(path)] == [(url, f"ä text {i}") for i, url in enumerate(urls)]


@pytest.mark.parametrize("form", ["pandas", "rows by name", "pandas index", "within an object"])
def test_large_objects_of_other_forms(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "WHOLE", 10)
    monkeypatch.setattr(json_values, "_CHUNK", 16)
    (tmp_path / "t.json").write_text(FORMS[form])
    assert [(row["url"], row["text"]) for row in rows(tmp_path / "t.json")] == [(p["url"], p["caption"]) for p in PAIRS]
    if form == "rows by name":
        assert [row["key"] for row in rows(tmp_path / "t.json")] == ["n0", "n1", "n2"]


def test_pictures_beside_an_array(tmp_path: Path) -> None:
    for i, data in enumerate(IMAGES):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    (tmp_path / "t.json").write_text(json.dumps([{"image": f"{i}.jpg", "caption": [text, "b"]} for i, text in enumerate(TEXTS)]))
    found = rows(tmp_path / "t.json")
    assert [(row["image"], row["text"], row["more_texts"]) for row in found] == [(IMAGES[i], TEXTS[i], ["b"]) for i in range(3)]


def test_an_object_that_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"url": "http://e.org", "captions": ["a", "b"]}')
    assert [(row["text"], row["more_texts"]) for row in rows(tmp_path / "t.json")] == [("a", ["b"])]


def test_items_that_are_no_objects_are_records_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([PAIRS[0], 3, None, PAIRS[1]]))
    assert [row["error"] for row in rows(tmp_path / "t.json")] == [None, "bad_json", "bad_json", None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    pairs = [{"url": "http://e.org", "text": "ein Bär, 熊"}] * 2
    lists = {"url": ["http://e.org"] * 2, "text": ["ein Bär, 熊"] * 2}
    for content in (pairs, lists):
        (tmp_path / "t.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
        assert [row["text"] for row in rows(tmp_path / "t.json")] == ["ein Bär, 熊"] * 2


def test_bytes_that_are_no_text_move_no_place(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(
        b'{"a": ["\xff", "\xff"], "text": ["\xfe", "b"], "url": ["http://e.org/1", "http://e.org/2"]}'
    )
    assert [(row["url"][-1], row["text"], row["error"]) for row in rows(tmp_path / "t.json")] == [
        ("1", "\ufffd", "text_not_utf8"),
        ("2", "b", None),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"url": "u", "text": "t"}, {"url": "v", ', "byte 41: Expecting property name"),
        ('[{"url": "u", "text": "t"} {"url": "v"}]', "byte 27: , was expected"),
        ('[{"url": "u", "text": "t"}', "the file ends too early"),
        ('[{"url": "u", "text": "t"}, ' + "[" * 200_000, "nested too deep"),
        ('[{"url": "u", "text": "t"}, "' + "x" * 5000 + '"]', "a value of more than 1000 characters"),
        ('[{"url": "u", "text": "t"}, ' + " " * 5000 + "nope]", "byte 5028: Expecting value"),
        ('{"url": ["u"], "text": ["t", "s"]}', "url has 1 values where text has 2"),
    ],
)
def test_what_is_wrong_is_said_after_the_good_rows(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "LONGEST", 1000)
    monkeypatch.setattr(json_values, "_CHUNK", 100)
    (tmp_path / "t.json").write_text(content)
    [shard] = listed(tmp_path / "t.json")
    batches = read(shard)
    assert next(batches).column("text").to_pylist() == ["t"]
    with pytest.raises(ShardBreak, match=message) as error:
        next(batches)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["http://a", "http://b"]', "its items are no objects; a .json is one array"),
        ('{"info": {"year": 1}, "images": [{"file_name": "a.jpg"}], "annotations": [{"caption": "t"}]}', "no text column among"),
        ('{"data": 3}', "no image or url column among data; .*one array of objects"),
    ],
)
def test_other_json_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        listed(tmp_path / "t.json")
    assert "\n" not in str(error.value)


def test_a_json_that_is_none_breaks(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("hello")
    with pytest.raises(ShardBreak, match=r"byte 0: a \.json is one array"):
        list(read(listed(tmp_path / "t.json")[0]))


def test_json_in_a_folder_describes_its_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(IMAGES[0])
    (tmp_path / "a.json").write_text('{"caption": "text"}')
    assert [shard.kind for shard in listed(tmp_path)] == ["folder"]
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "a.json").write_text(json.dumps(PAIRS))
    assert [shard.kind for shard in listed(tmp_path)] == ["json"]
    (tmp_path / "t.csv").write_text("url,text\nhttp://e.org,t\n")
    assert [shard.kind for shard in listed(tmp_path)] == ["csv"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def opened(data: bytes) -> Callable[[], Any]:
    return lambda: nullcontext(io.BytesIO(data))


class Slow(io.BytesIO):
    """A file of which a read gives a few bytes."""

    step = 1

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.step)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(VALUES, max_size=8), st.sampled_from([None, 0, 3]), st.integers(1, 9), st.booleans())
def test_values_come_back_wherever_reads_end(values: list[Any], indent: int | None, step: int, ascii_: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_).encode(errors="surrogatepass")
    file: BinaryIO = Slow(text)
    file.step = step  # type: ignore[attr-defined]
    assert list(Scanner(file).items()) == json.loads(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.text(), VALUES), min_size=1, max_size=8))
def test_lists_come_back_row_for_row(pairs: list[tuple[str, Any]]) -> None:
    lists = {"a": [a for a, _ in pairs], "ä": [b for _, b in pairs]}
    data = json.dumps(lists, ensure_ascii=False).encode(errors="surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    assert list(rows_of(opened(data))) == [{"a": a, "ä": b} for a, b in json.loads(json.dumps(pairs))]


def test_memory_is_that_of_a_row() -> None:
    line = json.dumps({"url": "http://e.org", "text": "x" * 900}).encode() + b","

    class Endless(io.RawIOBase):
        """40 MiB of an array."""

        left, first = 40 << 10, True

        def read(self, size: int = -1) -> bytes:
            if self.first:
                self.first = False
                return b"["
            count = min(self.left, max(size // len(line), 1))
            self.left -= count
            return line * count

    scanner = Scanner(Endless())  # type: ignore[arg-type]
    most = 0
    with pytest.raises(pa.ArrowInvalid):
        for _ in scanner.items():
            most = max(most, len(scanner._text))
    assert most < 3 << 20


def test_a_remote_array() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/json-array/t.json", FORMS["array"].encode())
    shards = list(list_shards(["memory://json-array/t.json"], {}))
    assert [row["text"] for shard in shards for batch in read(shard) for row in batch.to_pylist()] == TEXTS
