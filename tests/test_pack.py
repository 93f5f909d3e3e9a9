"""What an output holds: original bytes, true sums; and verify, which finds every change. Trainers: test_trainers.py."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.storage.tar import member_header
from tests import running
from tests.running import KEEP_ALL, Setup, curate, jpeg, listed, make_tar, manifest, picture, run_job

NAME = re.compile(r"[0-9a-f]{8}[0-9]{15}\.(jpg|png|webp|json|txt)")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the images of the input by their key."""
    return {f"{form.lower()}{seed}": picture(seed, form, (420, 260)) for seed in range(3) for form in FORMATS}


def inputs(folder: Path, given: dict[str, bytes]) -> list[Path]:
    """Write three tars that hold `given`."""
    files = []
    for number in range(3):
        members = []
        for key, image in given.items():
            if key.endswith(str(number)):
                members += [(f"{key}.jpg", image), (f"{key}.txt", f"größe: a photo of {key}".encode())]
                members.append((f"{key}.json", json.dumps({"url": f"https://example.org/{key}"}).encode()))
        files.append(make_tar(folder / f"{number}.tar", members))
    return files


@pytest.fixture(scope="module")
def packed(given: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    run_job(Setup(KEEP_ALL, inputs(folder, given)), folder / "out")
    return folder / "out"


@pytest.fixture
def out(packed: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return shutil.copytree(packed, tmp_path / "out")


def samples(out: Path) -> dict[str, dict[str, Any]]:
    """Read all tars with Python's tarfile: {original key: {extension: bytes, json: ..., shard: ...}}."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((out / "shards").glob("*.tar")):
        inside: dict[str, dict[str, Any]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                assert NAME.fullmatch(member.name)
                file = tar.extractfile(member)
                assert file is not None
                key, extension = member.name.split(".")
                inside.setdefault(key, {"shard": path.name, "sample_key": key})[extension] = file.read()
        for sample in inside.values():
            sample["json"] = json.loads(sample["json"])
            found[sample["json"]["key"]] = sample
    return found


def body(sample: dict[str, Any]) -> bytes:
    """Return the image of a sample."""
    found: bytes = next(sample[extension] for extension in ("jpg", "png", "webp") if extension in sample)
    return found


def test_original_bytes_pass_untouched_and_what_trainers_cannot_read_becomes_jpeg(given: dict[str, bytes], packed: Path) -> None:
    found = samples(packed)
    assert set(found) == set(given)
    recorded = {row["key"]: row for row in running.decisions(packed)}
    for key, sample in found.items():
        original = hashlib.sha256(given[key]).hexdigest()
        assert original == recorded[key]["sha256"]
        assert sample["json"]["sha256"] == hashlib.sha256(body(sample)).hexdigest()
        assert recorded[key]["sample_key"] == sample["sample_key"]
        if key.startswith(("jpeg", "png", "webp")):
            assert body(sample) == given[key]
            assert "reencoded" not in sample["json"]
        else:
            assert (sample["json"]["reencoded"], sample["json"]["original_sha256"]) == (True, original)
            with Image.open(io.BytesIO(sample["jpg"])) as image:
                assert (image.format, image.size) == ("JPEG", (420, 260))


def test_every_sample_says_where_it_comes_from(packed: Path) -> None:
    for key, sample in samples(packed).items():
        told = sample["json"]
        assert sample["txt"].decode() == f"größe: a photo of {key}"
        assert told["texts"] == [{"text_no": 0, "source": "web", "text": f"größe: a photo of {key}"}]
        assert told["url"] == f"https://example.org/{key}"
        assert (told["width"], told["height"]) == (420, 260)
        assert set(told["evidence"]) == set(manifest(packed)["filters"])
        assert {"language", "language_score", "phash", "format", "shard", "row"} <= set(told)


def test_the_index_finds_every_image_and_sizes_are_true(packed: Path) -> None:
    found = {sample["sample_key"]: sample for sample in samples(packed).values()}
    rows = [(path.stem, row) for path in sorted((packed / "index").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert {row["key"] for _, row in rows} == set(found)
    for number, row in rows:
        with (packed / "shards" / f"{number}.tar").open("rb") as file:
            file.seek(row["offset"])
            image = file.read(row["size"])
        assert image == body(found[row["key"]])
        assert hashlib.sha256(image).hexdigest() == row["sha256"]
        assert found[row["key"]]["json"]["key"] == row["original_key"]
    sizes = json.loads((packed / "shards" / "sizes.json").read_text())
    counted: dict[str, int] = {}
    for sample in found.values():
        counted[sample["shard"]] = counted.get(sample["shard"], 0) + 1
    assert sizes == counted
    assert set(sizes.values()) <= {4, len(found) % 4} | {12 % 4, 6 % 4}


def test_tars_hold_the_wanted_number_and_the_last_of_a_block_fewer(packed: Path) -> None:
    assert json.loads((packed / "shards" / "sizes.json").read_text()) == {
        **{f"0000{n}.tar": 4 for n in range(4)},
        "00004.tar": 2,
    }


def test_manifest_sums_are_true(packed: Path) -> None:
    for folder, totals in manifest(packed)["files"].items():
        files = listed(packed, folder)
        assert totals["sha256"] == hashlib.sha256((packed / totals["list"]).read_bytes()).hexdigest()
        assert totals["files"] == len(files) == sum(path.suffix != ".json" for path in (packed / folder).iterdir()) > 0
        assert totals["samples"] == sum(file.samples or 0 for file in files.values()) == manifest(packed)["kept"]
        assert totals["bytes"] == sum(file.bytes for file in files.values())
        for name, file in files.items():
            data = (packed / folder / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)


def test_longest_side_shrinks_what_is_larger_and_nothing_else(tmp_path: Path) -> None:
    small, large = jpeg(1, (200, 180)), jpeg(2, (900, 450))
    tar = make_tar(tmp_path / "0.tar", [("a.jpg", small), ("a.txt", b"small"), ("b.jpg", large), ("b.txt", b"large")])
    run_job(Setup(KEEP_ALL, [tar], ("output.longest_side=300",)), tmp_path / "out")
    found = samples(tmp_path / "out")
    assert found["a"]["jpg"] == small
    with Image.open(io.BytesIO(found["b"]["jpg"])) as image:
        assert image.size == (300, 150)
    assert found["b"]["json"]["original_sha256"] == hashlib.sha256(large).hexdigest()
    assert [found["b"]["json"][name] for name in ("reencoded", "width", "original_width")] == [True, 300, 900]
    assert curate("verify", tmp_path / "out").returncode == 0


def test_a_reencoded_picture_stands_upright(tmp_path: Path) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(jpeg(3, (600, 300)))).save(file, "JPEG", exif=exif)
    tar = make_tar(tmp_path / "0.tar", [("a.jpg", file.getvalue()), ("a.txt", b"turned")])
    run_job(Setup(KEEP_ALL, [tar], ("output.longest_side=200",)), tmp_path / "out")
    with Image.open(io.BytesIO(samples(tmp_path / "out")["a"]["jpg"])) as image:
        assert image.size == (100, 200)
        assert not image.getexif()


def test_a_block_that_keeps_nothing_writes_no_tar(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", [("a.jpg", b"no picture"), ("a.txt", b"text")])
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "shards" / "sizes.json").read_text()) == {}
    assert list((tmp_path / "out" / "shards").glob("*.tar")) == []
    assert curate("verify", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8**11 - 1])
def test_member_headers_are_what_tarfile_reads(size: int) -> None:
    header = member_header("000000000000001.jpg", size)
    info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert (len(header), info.name, info.size, info.mtime, info.type) == (512, "000000000000001.jpg", size, 0, tarfile.REGTYPE)


# Verify --------------------------------------------------------------------------------------------------------------


def refused(out: Path, *words: str) -> None:
    """Check that verify fails and names what is wrong."""
    done = curate("verify", out)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stdout


def test_verify_passes_what_was_written(packed: Path) -> None:
    done = curate("verify", packed)
    assert (done.returncode, done.stdout) == (0, "all well: 5 tars, 18 samples\n")


@pytest.mark.parametrize("place", [0, 700, -2000])
def test_verify_finds_one_flipped_bit(place: int, out: Path) -> None:
    path = out / "shards" / "00001.tar"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    refused(out, "00001.tar: sha256 differs")


def test_verify_finds_a_cut_off_tar(out: Path) -> None:
    path = out / "shards" / "00002.tar"
    path.write_bytes(path.read_bytes()[:3000])
    refused(out, "00002.tar: has 3000 bytes", "the bytes at its place are not its image")


@pytest.mark.parametrize(
    "name",
    ["decisions/000001.parquet", "shards/00003.tar", "index/00003.parquet", "shards/sizes.json", "manifest/shards.parquet"],
)
def test_verify_finds_a_missing_file(name: str, out: Path) -> None:
    (out / name).unlink()
    refused(out, {"index/00003.parquet": "00003.tar"}.get(name, name.removeprefix("shards/")))


def test_verify_finds_a_damaged_index(out: Path) -> None:
    path = out / "index" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    refused(out, "index/00000.parquet")


def test_verify_finds_swapped_images(out: Path) -> None:
    path = out / "index" / "00000.parquet"
    first, second = pq.read_table(path).slice(0, 2).to_pylist()
    tar = out / "shards" / "00000.tar"
    data = bytearray(tar.read_bytes())
    size = min(first["size"], second["size"])
    one, two = slice(first["offset"], first["offset"] + size), slice(second["offset"], second["offset"] + size)
    data[one], data[two] = data[two], data[one]
    tar.write_bytes(bytes(data))
    refused(out, tar.name, f"{first['key']}: the bytes at its place are not its image", f"{second['key']}: the bytes")


def test_verify_finds_a_tar_that_does_not_belong(out: Path) -> None:
    shutil.copy(out / "shards" / "00000.tar", out / "shards" / "00009.tar")
    refused(out, "00009.tar: is not in the manifest")
