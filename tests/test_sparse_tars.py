"""Tars with files that have holes, and with hard links: what GNU tar writes is read, anything else only breaks the shard."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.core.contracts import ShardBreak
from curate.sources.listing import list_shards
from curate.sources.opening import open_shard
from tests.running import KEEP_ALL, Setup, jpeg, make_tar, manifest, run_job

FORMATS = [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))]
HOLE = 1 << 17


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three pictures with holes behind their ends, and their captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(f"a picture of number {seed}")
        with (folder / f"{seed}.jpg").open("wb") as file:
            file.write(jpeg(seed))
            for place in range(1, 2 + 4 * seed):  # the last has more pieces than one header of GNU's holds
                file.seek(place * HOLE)
                file.write(bytes([seed]) * 512)
    return folder


def packed(pictures: Path, target: Path, form: list[str]) -> Path:
    """Return a tar that GNU tar makes of the pictures."""
    command = shutil.which("gtar") or shutil.which("tar") or "tar"
    if "GNU" not in subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("no GNU tar")
    names = [f"{seed}.{kind}" for seed in range(3) for kind in ("jpg", "txt")]
    subprocess.run([command, "-S", *form, "-C", pictures, "-cf", target, *names], check=True)
    return target


def read(path: Path) -> list[tuple[str, str, bytes, bytes | None]]:
    """Return key, text, image as it is scanned, and as it is read again, of every record."""
    (shard,) = list_shards([str(path)], {})
    with open_shard(shard) as opened:
        batches = list(opened.read())
        rows = [row for batch in batches for row in batch.select(["key", "text", "image"]).to_pylist()]
        again = [image for batch in batches for image in opened.images(_places(batch))]
    return [(row["key"], row["text"], row["image"], image) for row, image in zip(rows, again, strict=True)]


def _places(batch: pa.RecordBatch) -> pa.Table:
    sizes = pc.binary_length(batch["image"]).cast(pa.int64())
    return pa.table({"row": batch["row"], "offset": batch["offset"], "bytes": sizes})


@pytest.mark.parametrize("form", FORMATS, ids=" ".join)
def test_files_with_holes_are_read(form: list[str], pictures: Path, tmp_path: Path) -> None:
    path = packed(pictures, tmp_path / "a.tar", form)
    assert path.stat().st_size < HOLE  # the holes are not in it
    wanted = [(pictures / f"{seed}.jpg").read_bytes() for seed in range(3)]
    assert read(path) == [(str(seed), f"a picture of number {seed}", wanted[seed], wanted[seed]) for seed in range(3)]


def test_a_run_packs_files_with_holes(pictures: Path, tmp_path: Path) -> None:
    run_job(Setup(KEEP_ALL, [packed(pictures, tmp_path / "a.tar", FORMATS[0])]), tmp_path / "out")
    assert manifest(tmp_path / "out")["kept"] == 3
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        images = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    assert images == [(pictures / f"{seed}.jpg").read_bytes() for seed in range(3)]


@pytest.mark.parametrize("form", [FORMATS[0], FORMATS[3]], ids=" ".join)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_only_breaks_the_shard(form: list[str], pictures: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(packed(pictures, tmp_path / "a.tar", form).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 4095))
        whole[at] = data.draw(st.sampled_from([0, 32, 48, 57, 255]))
        block = at // 512 * 512
        if data.draw(st.booleans()):  # so that the map is looked at, not only the checksum
            total = sum(whole[block : block + 148]) + 8 * 32 + sum(whole[block + 156 : block + 512])
            whole[block + 148 : block + 156] = f"{total:06o}\0 ".encode()
    (tmp_path / "b.tar").write_bytes(whole)
    with suppress(ShardBreak):
        read(tmp_path / "b.tar")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hard_links_have_the_bytes_of_what_they_link_to(form: int, tmp_path: Path) -> None:
    folder = "a-long-name-" * 12 + "/"
    make_tar(tmp_path / "a.tar", [(f"{folder}1.jpg", jpeg(1)), (f"{folder}1.txt", b"one text")])
    with tarfile.open(tmp_path / "b.tar", "w", format=form) as out, tarfile.open(tmp_path / "a.tar") as first:
        for member in first:
            out.addfile(member, first.extractfile(member))
        for name, target in (("2.jpg", f"{folder}1.jpg"), ("3.jpg", "4.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            out.addfile(link)
            text = tarfile.TarInfo(name.replace("jpg", "txt"))
            text.size = 9
            out.addfile(text, io.BytesIO(b"some text"))
    found = read(tmp_path / "b.tar")
    assert [(key, text) for key, text, _, _ in found] == [(f"{folder}1", "one text"), ("2", "some text"), ("3", "some text")]
    assert [image for *_, image in found] == [jpeg(1), jpeg(1), None]
