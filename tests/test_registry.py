"""Sources: a new one is a single entry, whether it is registered or found among the installed packages."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from curate.core.contracts import Batch, Shard
from curate.core.errors import InputError
from curate.sources import registry
from curate.sources.listing import list_shards
from curate.sources.records import Record, batches
from curate.sources.registry import Source, register, source_of, unregister
from curate.storage.paths import staged
from tests.running import Setup, decisions, manifest, run_job

RECIPE = """
filters:
  min_side: {larger_than: 10}
  caption_words: {min_words: 2, max_words: 20}
output: {samples_per_shard: 10, block_shards: 2}
"""


class PairsFile:
    """Lines that alternate: the hex digits of an image, its text."""

    def __init__(self, path: str) -> None:
        self.lines = Path(path).read_text().splitlines()

    def read(self) -> Iterator[Batch]:
        rows = zip(self.lines[::2], self.lines[1::2], strict=True)
        yield from batches(Record(f"pair{n}", None, text, None, bytes.fromhex(image)) for n, (image, text) in enumerate(rows))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        for row in rows["row"].to_pylist():
            yield bytes.fromhex(self.lines[2 * row])


@contextmanager
def open_pairs(shard: Shard) -> Iterator[PairsFile]:
    with staged(shard.url) as path:
        yield PairsFile(path)


PAIRS = Source("pairs", (".pairs",), open_pairs)


def picture(side: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (side, 0, 0)).save(file, "PNG")
    return file.getvalue().hex()


def pairs_file(path: Path) -> Path:
    rows = [(picture(20), "a red square"), (picture(5), "too small"), (picture(30), "word")]
    path.write_text("".join(f"{image}\n{text}\n" for image, text in rows))
    return path


@pytest.fixture
def pairs() -> Iterator[Source]:
    register(PAIRS)
    yield PAIRS
    unregister("pairs")


def test_a_registered_source_is_listed_opened_and_judged(pairs: Source, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pairs_file(tmp_path / "in" / "0.pairs")
    for given in (tmp_path / "in", tmp_path / "in" / "*.pairs"):
        [shard] = list_shards([str(given)], {})
        assert (shard.kind, shard.part, shard.on_the_web) == ("pairs", None, False)
    outcome = run_job(Setup(RECIPE, [tmp_path / "in"]), tmp_path / "out")
    assert (outcome.records, outcome.failed) == (3, [])
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == [None, "min_side", "caption_words"]
    assert manifest(tmp_path / "out")["kept"] == 1


def test_without_its_entry_the_file_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown kind of file; known are .*\.parquet.*\.tar"):
        list_shards([str(pairs_file(tmp_path / "0.pairs"))], {})
    with pytest.raises(InputError, match="no source of kind 'pairs' here"):
        registry.source("pairs")


def test_kinds_and_suffixes_belong_to_one_source(pairs: Source) -> None:
    register(PAIRS)  # a module that is loaded twice
    for kind, suffixes, message in (
        ("tar", (".x",), "two sources of kind 'tar'"),
        ("mine", (".x", ".tar"), "'tar' and 'mine' both read .tar"),
        ("mine", (".pairs",), "'pairs' and 'mine' both read .pairs"),
        ("mine", ("x",), "must start with a dot"),
        ("mine", (".X",), "must start with a dot and be in lower case"),
    ):
        with pytest.raises(ValueError, match=message):
            register(Source(kind, suffixes, open_pairs))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tar", "tar"),
        ("A.TAR", "tar"),
        ("a.tar.gz", "tar"),
        ("a.b.parq", "parquet"),
        ("a.ndjson", "jsonl"),
        ("a.warc.wat.gz", "archive"),
        ("a.gz", None),
        (".tar", None),
        ("tar", None),
        ("x.tar/a", None),
    ],
)
def test_the_longest_suffix_of_a_name_counts(name: str, kind: str | None) -> None:
    found = source_of(f"s3://bucket/folder.csv/{name}")
    assert (found and found.kind) == kind


PLUG_IN = """
from contextlib import contextmanager
from curate.sources.registry import Source

@contextmanager
def opened(shard):
    yield None

SOURCE = Source("made_up", (".made.up",), opened)
"""

ASKING = """
import sys
from curate.sources.registry import source, source_of
assert source_of("a.tar").kind == "tar"
print(sorted({"fastwarc", "msgspec", "brotli", "made_up"} & sys.modules.keys()))
print(source_of("a.made.up").kind, source("made_up").suffixes)
"""


def installed(folder: Path, value: str) -> dict[str, Any]:
    """Return how a process is started that has a package with this entry point."""
    about = folder / "made_up-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[curate.sources]\nmade_up = {value}\n")
    (folder / "made_up.py").write_text(PLUG_IN)
    return {"env": {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}, "capture_output": True, "text": True}


def test_an_entry_point_is_loaded_on_the_first_unknown_suffix(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ASKING], **installed(tmp_path, "made_up:SOURCE"))
    assert (done.stdout, done.stderr) == ("[]\nmade_up ('.made.up',)\n", "")


def test_an_entry_point_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ASKING], **installed(tmp_path, "made_up:PLUG"))
    assert "InputError: the plug-in 'made_up' (curate.sources) cannot be loaded:" in done.stderr.splitlines()[-1]
