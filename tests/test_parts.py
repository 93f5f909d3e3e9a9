"""Large tables of text as several shards: no row is lost, doubled or read otherwise than in the whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.core.contracts import Shard, ShardBreak
from curate.sources.listing import list_shards
from curate.sources.opening import read
from curate.sources.tables import csv_rows, cutting
from curate.storage import input_file
from tests.remote_files import asking, gets

SIGNS = st.one_of(st.sampled_from('",;\n\r\\ '), st.sampled_from("abcxyzü"))
TEXTS = st.lists(st.text(SIGNS, max_size=30), min_size=1, max_size=40)


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PART", 100)
        patch.setattr(cutting, "_WINDOWS", (40, 400))
        patch.setattr(csv_rows, "LONGEST", 200)
        patch.setattr(cutting, "LONGEST", 200)
        yield


def found(shards: list[Shard]) -> list[tuple[str | None, str | None, str | None]]:
    """Return url, text and error of each record, rows of another width last."""
    rows = [(row["url"], row["text"], row["error"]) for shard in shards for batch in read(shard) for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row[2] == "bad_row")


def parts_and_whole(path: Path) -> tuple[list[Shard], list[Shard]]:
    shards = list(list_shards([str(path)], {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PART", 1 << 30)
        return shards, list(list_shards([str(path)], {}))


def check(path: Path) -> list[Shard]:
    """Check that the parts of a file make up the whole, and return them."""
    parts, [whole] = parts_and_whole(path)
    assert found(parts) == found([whole])
    assert len({shard.fingerprint for shard in (*parts, whole)}) == len(parts) + (len(parts) > 1)
    bounds = [shard.part for shard in parts if shard.part is not None]
    assert not bounds or [begin for begin, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert sum(shard.size for shard in parts) == whole.size
    return parts


@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts=TEXTS, reverse=st.booleans(), stray=st.lists(st.text(SIGNS, max_size=20), max_size=3))
@example(texts=["a\nb"] * 40, reverse=False, stray=[])
@example(texts=['",\n"'] * 40, reverse=False, stray=['"'])
def test_parts_of_a_table_with_quotes(
    texts: list[str], reverse: bool, stray: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = io.StringIO()
    frame = pd.DataFrame({"url": [f"http://a.example/{n}.jpg" for n in range(len(texts))], "caption": texts})
    frame[["caption", "url"] if reverse else ["url", "caption"]].to_csv(file, index=False)
    rows = file.getvalue().split("\n")
    rows[len(rows) // 2 : len(rows) // 2] = [f"http://a.example/stray.jpg,{text}" for text in stray]
    path = tmp_path_factory.getbasetemp() / "parts.csv"
    path.write_bytes("\n".join(rows).encode())
    check(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize(("name", "sign"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_large_table_is_several_shards(name: str, sign: str, encoding: str, tmp_path: Path) -> None:
    texts = ['"the red one', "größere Boote am See", 'a 12" ruler', '"one two"', "a boat"] * 20
    rows = [f"http://a.example/{n}.jpg{sign}{text}\r\n" for n, text in enumerate(texts)]
    (tmp_path / name).write_bytes("".join([f"url{sign}caption\r\n", *rows]).encode(encoding))
    parts = check(tmp_path / name)
    assert len(parts) > 20
    assert [row[0] for row in found(parts)] == [f"http://a.example/{n}.jpg" for n in range(len(texts))]
    keys = [row["key"] for shard in parts for batch in read(shard) for row in batch.to_pylist()]
    assert len(set(keys)) == len(texts)


def test_a_large_jsonl_is_several_shards(tmp_path: Path) -> None:
    lines = [json.dumps({"url": f"http://a.example/{n}.jpg", "text": "größer" * (n % 5)}, ensure_ascii=False) for n in range(60)]
    lines[20:20] = ["", "no json", "{"]
    path = tmp_path / "t.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8-sig"))
    parts = check(path)
    assert len(parts) > 20
    keys = [row["key"] for shard in parts for batch in read(shard) for row in batch.to_pylist()]
    assert len(set(keys)) == len(keys) == 62


def test_rows_of_many_lines_are_not_cut_and_utf16_is_not(tmp_path: Path) -> None:
    value = '"a ""b""' + ",\n" * 40 + '"'
    (tmp_path / "t.csv").write_text("url,caption\n" + f"http://a.example/1.jpg,{value}\n" * 10)
    parts = check(tmp_path / "t.csv")
    assert all(row[1] for row in found(parts))
    (tmp_path / "u.csv").write_bytes((tmp_path / "t.csv").read_text().encode("utf-16"))
    assert len(check(tmp_path / "u.csv")) == 1


def test_a_file_that_became_shorter_breaks(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"url": "http://a.example/{n}.jpg", "text": "a boat"}}\n' for n in range(20)))
    last = list(list_shards([str(path)], {}))[-1]
    path.write_bytes(path.read_bytes()[: last.part[0] + 10] if last.part else b"")
    with pytest.raises(ShardBreak, match="it was longer when it was listed"):
        found([last])


def test_of_a_remote_file_only_ranges_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PART", 2 << 20)
    monkeypatch.setattr(cutting, "_WINDOWS", (4 << 10, 8 << 10))
    monkeypatch.setattr(csv_rows, "LONGEST", 4 << 20)
    monkeypatch.setattr(cutting, "LONGEST", 4 << 20)
    rows = [(f"http://a.example/{n}.jpg", f"boats, {n} " + "x" * 1000) for n in range(6000)]
    files = {"t.csv": "".join(["url,text\n", *(f'{url},"{text}"\n' for url, text in rows)])}
    files["t.jsonl"] = "".join(json.dumps({"url": url, "text": text}) + "\n" for url, text in rows)
    with asking() as fs, monkeypatch.context() as patch:
        patch.setattr(input_file, "RANGE", 1 << 10)
        for name, text in files.items():
            fs.pipe_file(f"/bucket/{name}", text.encode())
            shards = list(list_shards([f"asking://bucket/{name}"], {}))
            assert len(shards) == 3
            assert sum(asked.size for asked in gets(fs)) < (1 << 20) + 2 * (12 << 10)  # the head, and what is around each cut
            assert found(shards) == [(url, text, None) for url, text in rows]
            heads = len(shards) << 20 if name == "t.csv" else 0
            assert sum(asked.size for asked in gets(fs)) < len(text) + heads + len(shards) * (1 << 20)
