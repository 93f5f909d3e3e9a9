"""What a run reads of a remote input: all of it once, to scan it; then the images that are needed, by ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sources.listing import list_shards
from curate.sources.opening import open_shard, read
from curate.storage.ranges import GAP, RANGE
from tests.proxy import Proxy, proxy
from tests.remote_files import Asking, asking, gets
from tests.running import InProcess, Setup, decisions, jpeg, make_tar, run_job, written
from tests.s3 import upload

RECIPE = """
filters:
  caption_words: {min_words: 3, max_words: 20}
  min_side: {larger_than: 200}
  unreadable:
  eval_overlap: {method: hash}
output: {samples_per_shard: 25, block_shards: 2}
"""
FILLER = 3 << 20  # bytes of an image that the text filter drops: no two images around it are neighbours


def records() -> Iterator[tuple[str, bytes, str]]:
    """Yield key, image, text: runs of good records between large ones that the filter of texts drops."""
    for number in range(24):
        if number % 6 == 5:
            yield f"{number:03d}", jpeg(number, comment=b"x" * 60_000) + bytes(FILLER), "too short"
        else:
            yield f"{number:03d}", jpeg(number, (150, 150) if number == 7 else (256, 240)), f"a picture of number {number}"


def tar(path: Path) -> Path:
    return make_tar(
        path, ((f"{key}.{end}", body) for key, image, text in records() for end, body in (("jpg", image), ("txt", text.encode())))
    )


def merged(places: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return how many requests some pieces take, and their bytes with the gaps that are read."""
    runs: list[list[int]] = []
    for offset, size in sorted(places):
        if runs and offset - runs[-1][1] <= GAP and offset + size - runs[-1][0] <= RANGE:
            runs[-1][1] = offset + size
        else:
            runs.append([offset, offset + size])
    return len(runs), sum(end - start for start, end in runs)


@dataclass
class Passes:
    """Progress that notes at which request each pass begins."""

    server: Proxy
    begun: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, total: int) -> None:
        self.begun[name] = len(self.server.asked)

    def advance(self, records: int) -> None:
        """Not of interest."""

    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def asked(self, name: str) -> list[int]:
        """Return the sizes of the answers of a pass about the input."""
        order = [*self.begun.values(), len(self.server.asked)]
        begin = self.begun[name]
        asked = self.server.asked[begin : order[order.index(begin) + 1]]
        return [one.size for one in asked if one.method == "GET" and "/in/" in one.path]


@pytest.fixture
def watched(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    from s3fs import S3FileSystem

    with proxy(s3_server) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        S3FileSystem.clear_instance_cache()
        yield Passes(server)
    S3FileSystem.clear_instance_cache()


def test_after_the_scan_only_images_that_are_needed_are_read(watched: Passes, bucket: str, demo: Path, tmp_path: Path) -> None:
    path = tar(tmp_path / "in" / "0.tar")
    url = upload(tmp_path / "in", f"{bucket}/in")
    setup = Setup(RECIPE, [path], (f"eval_overlap.sets={demo / 'eval'}",))
    run_job(setup, tmp_path / "here" / "out")
    run_job(dataclasses.replace(setup, inputs=[url]), tmp_path / "there" / "out", InProcess(), watched)  # type: ignore[list-item]

    [facts] = (tmp_path / "there" / "out" / "facts").glob("base-*/*.parquet")
    place = {row["row"]: (row["offset"], row["bytes"]) for row in pq.read_table(facts).to_pylist()}
    rows = decisions(tmp_path / "there" / "out")
    decoded = [row["row"] for row in rows if row["dropped_by"] not in ("caption_words", "min_side")]
    kept = [row["row"] for row in rows if row["dropped_by"] is None]
    [thumbs] = (tmp_path / "there" / "out" / "thumbs").glob("*.parquet")
    shown = set(pq.read_table(thumbs)["row"].to_pylist())
    assert len(decoded) == len(kept) == 19

    assert watched.asked("scan") == [path.stat().st_size]
    for name, wanted in (("judge", (decoded, shown)), ("pack", (kept,))):
        expected = [merged(place[row] for row in some) for some in wanted]
        asked = watched.asked(name)
        assert (len(asked), sum(asked)) == tuple(map(sum, zip(*expected, strict=True)))
    assert sum(watched.asked("pack")) < path.stat().st_size / 20
    here, there = (written(tmp_path / name / "out") for name in ("here", "there"))
    same = [name for name in here if name.startswith(("shards", "decisions", "thumbs", "index"))]
    assert [here[name] for name in same] == [there[name] for name in same]


def test_an_input_that_changed_after_the_scan_is_noticed_when_it_is_packed(tmp_path: Path) -> None:
    """The object has as many bytes as before: only its content tells."""
    with asking() as fs:
        path = tar(tmp_path / "0.tar")
        data = path.read_bytes()
        fs.pipe_file("/in/0.tar", data)

        class Changing(Passes):
            def start(self, name: str, total: int) -> None:
                if name == "pack":
                    fs.pipe_file("/in/0.tar", data.replace(jpeg(3), jpeg(3)[:-3] + b"\0\xff\xd9"))

        setup = Setup(RECIPE.replace("  eval_overlap: {method: hash}\n", ""), ["asking://in/0.tar"])  # type: ignore[list-item]
        outcome = run_job(setup, tmp_path / "out", InProcess(), Changing(None))  # type: ignore[arg-type]
    [failed] = outcome.failed
    assert "has changed since it was scanned: row 3 is another image now" in failed["reason"]


@pytest.fixture
def store() -> Iterator[Asking]:
    with asking() as fs:
        yield fs


def table(fs: Asking, path: Path) -> tuple[str, pq.ParquetFile, list[bytes]]:
    """Put a parquet file of four row groups, half of whose bytes are of no use for images, into the store."""
    images = [jpeg(number, comment=b"x" * 50_000) for number in range(40)]
    columns: dict[str, Any] = {
        "image": images,
        "text": ["t"] * 40,
        "other": [bytes([n]) + bytes(image) for n, image in enumerate(images)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=10, compression="none", use_dictionary=False)
    fs.pipe_file(f"/in/{path.name}", path.read_bytes())
    return f"asking://in/{path.name}", pq.ParquetFile(path), images


def test_images_of_a_remote_parquet_file_come_by_row_group_and_column(store: Asking, tmp_path: Path) -> None:
    url, file, images = table(store, tmp_path / "t.parquet")
    [shard] = list_shards([url], {})
    chunk = file.metadata.row_group(0).column(0).total_compressed_size
    assert sum(one.size for one in gets(store)) < chunk + (1 << 17)  # columns are judged by the footer and one image
    assert len([row for batch in read(shard) for row in batch.to_pylist()]) == 40
    assert [(one.start, one.size) for one in gets(store)] == [(None, shard.size)]
    with open_shard(shard) as opened:
        assert list(opened.images(pa.table({"row": [12, 15, 39]}))) == [images[12], images[15], images[39]]
    asked = gets(store)
    assert sum(one.size for one in asked) <= 2 * chunk + (1 << 17)
    assert len(asked) < 10


def test_columns_of_remote_lines_are_judged_by_the_first_of_them(store: Asking) -> None:
    store.pipe_file("/in/t.jsonl", b'{"url": "http://a.example/1.jpg", "text": "a text"}\n' * 100_000)
    [shard] = list_shards(["asking://in/t.jsonl"], {})
    assert shard.on_the_web and dict(shard.columns) == {"text": "text", "url": "url"}
    assert sum(one.size for one in gets(store)) <= 1 << 20
    with pytest.raises(FileNotFoundError), open_shard(dataclasses.replace(shard, url="asking://in/u.jsonl")) as opened:
        list(opened.read())
