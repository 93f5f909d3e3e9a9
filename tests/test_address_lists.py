"""Lists of addresses, one a line, and the tables of addresses that people publish without a header."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from curate.core.contracts import ShardBreak
from curate.core.errors import InputError
from curate.sources.opening import read
from curate.sources.tables import cutting
from tests.tables import IMAGES, TEXTS, listed, rows

URLS = ["http://e.org/a.jpg", "http://e.org/v1/fill/w_303,h_170,al_c/b.jpg", "https://e.org/c.jpg?crop=10,20,x0,y0#top"]

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


@pytest.mark.parametrize("suffix", PACKED)
def test_each_line_is_an_address_as_it_is(suffix: str, tmp_path: Path) -> None:
    text = "\ufeff# three images\r\n" + "\r\n\n".join(URLS) + "\n \n#http://e.org/no.jpg"
    (tmp_path / f"urls.txt{suffix}").write_bytes(PACKED[suffix](text.encode()))
    found = rows(tmp_path / f"urls.txt{suffix}")
    assert [(row["key"], row["url"], row["text"], row["error"]) for row in found] == [
        (f"urls.txt/{i}" if suffix else f"urls/{i}", url, None, "missing_text") for i, url in enumerate(URLS)
    ]
    assert listed(tmp_path / f"urls.txt{suffix}")[0].on_the_web


def test_a_large_list_is_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PART", 300)
    urls = [f"http://e.org/{i}.jpg" for i in range(100)]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    shards = listed(tmp_path / "urls.txt")
    found = [row for shard in shards for batch in read(shard) for row in batch.to_pylist()]
    assert len(shards) > 3 and [row["url"] for row in found] == urls
    assert len({row["key"] for row in found}) == len(urls)


def test_a_text_without_addresses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a boat\nby the pier\n")
    with pytest.raises(InputError, match=r"notes\.txt: a \.txt is a list of addresses"):
        listed(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_text("\n".join(URLS))
    with pytest.raises(InputError, match="without a column for text"):
        listed(tmp_path / "notes.txt", {"text": "1"})


def test_a_packed_list_that_is_cut_off_breaks(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(f"http://e.org/{i}.jpg" for i in range(9999)).encode())
    (tmp_path / "urls.txt.gz").write_bytes(data[:-200])
    with pytest.raises(ShardBreak):
        list(read(listed(tmp_path / "urls.txt.gz")[0]))


def test_texts_in_a_folder_are_captions_or_lists(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(URLS[0])
    assert [shard.kind for shard in listed(tmp_path)] == ["addresses"]
    (tmp_path / "a.jpg").write_bytes(IMAGES[0])
    [shard] = listed(tmp_path)
    assert shard.kind == "folder" and rows(tmp_path)[0]["text"] == URLS[0]
    (tmp_path / "t.csv").write_text("url,text\nhttp://e.org,t\n")
    (tmp_path / "a.jpg").unlink()
    assert [shard.kind for shard in listed(tmp_path)] == ["csv"]


def test_tables_without_a_header(tmp_path: Path) -> None:
    cc3m = [f"{text}\t{url}" for text, url in zip(TEXTS, URLS, strict=True)]
    cc12m = [f"{url}\t{text}" for text, url in zip(TEXTS, URLS, strict=True)]
    for name, lines, columns in (
        ("cc3m.tsv", cc3m, {"image_url": "1", "text": "0"}),
        ("cc12m.tsv", cc12m, {"image_url": "0", "text": "1"}),
        ("guessed.tsv", cc3m, {}),
        ("guessed2.tsv", cc12m, {}),
    ):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        assert [(row["url"], row["text"]) for row in rows(tmp_path / name, columns)] == list(zip(URLS, TEXTS, strict=True))
