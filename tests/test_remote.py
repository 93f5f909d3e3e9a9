"""The commands that read an output, on one behind a URL: they say what they say of the same output on a disk."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fsspec.implementations.memory import MemoryFileSystem

from curate.cli import main
from curate.core.errors import OutputError
from curate.report import attrition, write_report
from curate.report.find import find
from curate.report.rules import rules_of
from curate.report.verify import verify
from curate.report.what_if import what_if
from curate.storage.backend import Storage, storage
from curate.storage.file_lists import listed
from tests import running
from tests.running import RECIPE, InProcess, Setup, manifest, run_job
from tests.s3 import upload

SHARDS = 4


def curate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def once(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return OUT of a few of the demo's pairs; its folder holds the recipe too."""
    out = tmp_path_factory.mktemp("remote") / "out"
    inputs = sorted((demo / "pairs").glob("*.tar"))[:SHARDS]
    run_job(Setup(RECIPE, inputs, (f"eval_overlap.sets={demo / 'eval'}",)), out)
    return out


def memory(once: Path, name: str) -> str:
    """Copy OUT into the memory of this process; return its url."""
    url = f"memory://{name}-{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(f"{once}/", url, recursive=True)
    return url


@pytest.fixture
def remote(once: Path) -> Iterator[str]:
    """Return the url of a copy of OUT in the memory of this process, with a name that globs would read as a pattern."""
    url = memory(once, "o[u]t*'1")
    yield url
    storage(url).remove_folder("")


def some_key(once: Path) -> str:
    return str(next(row["key"] for row in running.decisions(once) if len(row["failed"]) > 1))


def commands(once: Path) -> list[list[str]]:
    """Return what is asked of an output, without its name."""
    words = ["--set", "min_side.larger_than=260"]
    return [["report"], ["report", "--json"], ["why", some_key(once)], ["why", some_key(once), "--json"], ["what-if", *words]]


def test_commands_on_a_url_say_what_they_say_on_a_disk(once: Path, remote: str) -> None:
    for command, *words in commands(once):
        here, there = curate(command, once, *words), curate(command, remote, *words)
        assert (there.exit_code, there.stderr) == (0, "")
        assert there.stdout.replace(remote, str(once)) == here.stdout
    assert storage(remote).read("report.html") == (once / "report.html").read_bytes()


def test_a_dry_run_takes_counts_from_a_url(once: Path, remote: str, demo: Path) -> None:
    words = (once.parent / "recipe.yaml", demo / "pairs" / "00001.tar", "--samples", 60, "--json")
    here, there = (json.loads(curate("dry-run", *words, "--counts", out).stdout) for out in (once, remote))
    assert there["attrition"] == here["attrition"]
    assert there["not_estimated"] == here["not_estimated"] == ["duplicate_pair"]  # it names places of the other corpus


def names(out: Storage, folder: str) -> list[str]:
    """Return the names of the files of a folder, sorted."""
    return sorted(name for name, _ in listed(out, folder))


def flip(out: Storage) -> None:
    name = f"shards/{names(out, 'shards')[0]}"
    data = bytearray(out.read(name) or b"")
    data[700] ^= 1
    out.write(name, bytes(data))


def cut(out: Storage) -> None:
    name = f"index/{names(out, 'index')[0]}"
    out.write(name, (out.read(name) or b"")[:-40])


def take(out: Storage) -> None:
    out.remove([f"shards/{names(out, 'shards')[-1]}", f"decisions/{names(out, 'decisions')[-1]}", "shards/sizes.json"])


def lose(out: Storage) -> None:
    out.remove(["manifest/index.parquet"])


def add(out: Storage) -> None:
    out.write("shards/00009.tar", b"")


@pytest.mark.parametrize("damage", [lambda out: None, flip, cut, take, lose, add])
def test_verify_finds_on_a_url_what_it_finds_on_a_disk(
    damage: Callable[[Storage], None], once: Path, remote: str, tmp_path: Path
) -> None:
    told = manifest(once)
    copies = storage(shutil.copytree(once, tmp_path / "out")), storage(remote)
    for out in copies:
        damage(out)
    here, there = (verify(out, told, InProcess()) for out in copies)
    named = [line.partition(" '")[0] for line in here]  # pyarrow quotes the path of a file of this disk
    assert [line.partition(" '")[0] for line in there] == named
    assert bool(here) == (damage in (flip, cut, take, lose, add))


def test_what_is_no_output_is_said_in_one_line(tmp_path: Path) -> None:
    for command in (["report"], ["why", "key"], ["what-if"], ["verify"]):
        found = curate(command[0], "memory://nothing/here", *command[1:])
        assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
        assert "memory://nothing/here holds no finished run" in found.stderr
        missing = curate(command[0], tmp_path / "nowhere", *command[1:])
        assert missing.exit_code == 2
        assert f"Error: {tmp_path / 'nowhere'}: no such folder" in missing.stderr
    assert "Protocol not known" in curate("report", "nonsense://a/b").stderr


def test_files_that_cannot_be_read_are_said_in_one_line(remote: str) -> None:
    out = storage(remote)
    out.write("decisions/000001.parquet", b"PAR1 not really")
    for command in (["report"], ["why", "key"], ["what-if"]):
        found = curate(command[0], remote, *command[1:])
        assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
        assert "cannot read" in found.stderr


# Ranges --------------------------------------------------------------------------------------------------------------


class Counted(MemoryFileSystem):
    """Memory that counts the bytes that are read, and breaks when it is told to."""

    protocol = "counted"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    read = 0
    broken = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.replace("counted://", "memory://"))
        return stripped

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if Counted.broken:
            raise PermissionError("you may not")
        data: bytes = super().cat_file(path, start, end, **options)
        Counted.read += len(data)
        return data

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode != "rb":
            return file
        assert options["cache_type"] == "none"
        return CountedFile(file.getvalue())


class CountedFile(fsspec.implementations.memory.MemoryFile):
    def __init__(self, data: bytes) -> None:
        super().__init__(None, "", data)

    def read(self, size: int = -1) -> bytes:
        data: bytes = super().read(size)
        Counted.read += len(data)
        return data


@pytest.fixture
def heavy(once: Path) -> Iterator[Storage]:
    """Return OUT on a store that counts, with texts that nobody could read by chance."""
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    fsspec.filesystem("counted").put(f"{once}/", "/out", recursive=True)
    draw = random.Random(1)
    out = storage("counted://out")
    for found in list(out.listing("decisions")):
        table = pq.read_table(once / "decisions" / found.name)
        texts = pa.array([draw.randbytes(20_000).hex() for _ in range(table.num_rows)])
        with out.writing(f"decisions/{found.name}") as path:
            pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", texts), path, row_group_size=40)
    Counted.read = 0
    yield out
    Counted.broken = False
    Counted.store.clear()


def test_only_the_columns_that_are_needed_are_read(once: Path, heavy: Storage) -> None:
    size = sum(found.size for found in heavy.listing("decisions"))
    told = manifest(once)
    assert what_if(heavy, told, ()).kept == told["kept"]
    assert 0 < Counted.read < size / 5
    Counted.read = 0
    rows = attrition(heavy, rules_of(told))
    assert rows == attrition(storage(once), rules_of(told))
    assert 0 < Counted.read < size


def test_the_report_reads_nothing_twice(heavy: Storage) -> None:
    size = sum(found.size for found in (*heavy.listing("decisions"), *heavy.listing("thumbs")))
    write_report(heavy)
    assert Counted.read < 1.5 * size


def test_what_a_store_refuses_is_said(heavy: Storage) -> None:
    Counted.broken = True
    with pytest.raises(OutputError, match="cannot read the parquet files: PermissionError: you may not"):
        find(heavy, "key")


# S3 ------------------------------------------------------------------------------------------------------------------


def test_commands_on_s3_say_what_they_say_on_a_disk(once: Path, bucket: str) -> None:
    url = upload(once, f"{bucket}/some/out")
    storage(url).remove(["report.html"])
    for command, *words in [asked for asked in commands(once) if "--json" not in asked]:
        here, there = curate(command, once, *words), running.curate(command, url, *words)
        assert (there.returncode, there.stderr) == (0, "")
        assert there.stdout.replace(url, str(once)) == here.stdout
    assert storage(url).read("report.html") == (once / "report.html").read_bytes()


def test_verify_on_s3(once: Path, bucket: str) -> None:
    url, told = upload(once, f"{bucket}/out"), manifest(once)
    well = running.curate("verify", url)
    assert (well.returncode, well.stdout) == (0, f"all well: {told['files']['shards']['files']} tars, {told['kept']} samples\n")
    flip(storage(url))
    found = running.curate("verify", url)
    assert (found.returncode, found.stderr) == (1, "")
    assert f"{min(running.listed(once, 'shards'))}: sha256 differs from the manifest's" in found.stdout


def test_s3_without_credentials_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = running.curate("report", f"{bucket}/out")
    assert (found.returncode, found.stderr) == (1, f"curate: {bucket}/out: Unable to locate credentials\n")
