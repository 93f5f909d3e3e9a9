"""Taking records out: nothing of them is left anywhere in OUT, every other sample is as it was, and no run brings them back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.core.contracts import Report
from curate.core.errors import OutputError
from curate.driver.removal import PENDING, Removal, Selection
from curate.passes.pack import Block
from curate.passes.removal import RemoveFromBlock
from curate.report.verify import verify
from curate.storage.backend import storage
from curate.storage.store import Store
from tests import test_capfilt
from tests.running import InProcess, Setup, curate, decisions, jpeg, leftovers, make_tar, manifest, run_job, written
from tests.test_add import COUNTED, shards
from tests.test_pack import samples
from tests.web import Web, table, url, web_of

DATE = "2026-11-27"

RECIPE = """
filters:
  caption_words: {min_words: 2}
  min_side: {larger_than: 200}
  unreadable:
output: {samples_per_shard: 4, block_shards: 2}
"""


def remove(out: Path, **selection: Any) -> int:
    """Remove what is selected; return how many records that was."""
    return Removal(Store(storage(out)), InProcess()).remove(Selection(**selection), DATE).number


# Proof ----------------------------------------------------------------------------------------------------------------


def contents(out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield everything that OUT holds, by name: files as they are, tables decoded, tars opened, embedded images decoded."""
    for path in sorted(out.rglob("*")):
        if not path.is_file():
            continue
        name, data = str(path.relative_to(out)), path.read_bytes()
        yield name, data
        if path.suffix == ".parquet":
            for column in pq.read_table(path).itercolumns():
                for value in column.to_pylist():
                    yield name, value if isinstance(value, bytes) else str(value).encode()
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    yield f"{name}/{member.name}", member.name.encode() + b" " + (b"" if file is None else file.read())
        elif path.suffix == ".html":
            for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
                yield name, base64.b64decode(found)


def holds(out: Path, *needles: bytes) -> list[str]:
    """Return the names of what holds any of these."""
    return sorted({name for name, data in contents(out) if any(needle in data for needle in needles)})


def thumbs_of(out: Path, key: str) -> list[bytes]:
    """Return the thumbnails of a record."""
    rows = [row for path in sorted((out / "thumbs").glob("*")) for row in pq.read_table(path).to_pylist()]
    return [row["thumb"] for row in rows if row["key"] == key]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output of four shards, twelve records, with a web text that says whose it is."""
    tars = []
    for at in range(4):
        members: list[tuple[str, bytes]] = []
        for seed in range(3 * at, 3 * at + 3):
            about = json.dumps({"url": f"https://example.org/{seed}.jpg"}).encode()
            members += [(f"key{seed}.jpg", jpeg(seed)), (f"key{seed}.txt", f"Portrait of person{seed}".encode())]
            members += [(f"key{seed}.json", about)]
        tars.append(make_tar(tmp_path / f"{at}.tar", members))
    run_job(Setup(RECIPE, tars), tmp_path / "out")
    for tar in tars:
        tar.unlink()  # the input is not needed
    return tmp_path / "out"


def trace(seed: int) -> tuple[bytes, ...]:
    """Return what must not be found of a record: image, text and url; its key in the input is a name too."""
    return jpeg(seed)[-400:-50], f"person{seed}".encode(), f"example.org/{seed}.jpg".encode(), f"key{seed}".encode()


@pytest.mark.parametrize("selection", [
    {"sha256": [hashlib.sha256(jpeg(4)).hexdigest()]},
    {"urls": ["https://example.org/4.jpg"]},
    {"keys": ["key4"]},
    {"texts": ["  portrait  OF person4"]},
])  # fmt: skip
def test_nothing_of_a_removed_record_is_left(selection: dict[str, Any], out: Path) -> None:
    before, thumb = samples(out), thumbs_of(out, "key4")
    assert len(thumb) == 1
    assert {name.partition("/")[0] for name in holds(out, *trace(4))} >= {"shards", "decisions", "facts", "thumbs", "report.html"}
    assert remove(out, **selection) == 1
    assert holds(out, *trace(4), *thumb) == []
    after = samples(out)
    assert set(before) - set(after) == {"key4"}
    for key, sample in after.items():
        kept = {name: value for name, value in before[key].items() if name != "shard"}
        assert {name: value for name, value in sample.items() if name != "shard"} == kept
    [row] = [row for row in decisions(out) if row["dropped_by"] == "removed"]
    assert (row["shard"], row["row"], row["sha256"]) == ("1.tar", 1, hashlib.sha256(jpeg(4)).hexdigest())
    assert row["error"] == f"removed {DATE}" and row["text"] is None and row["sample_key"] is None
    assert curate("verify", out).returncode == 0 and leftovers(out) == []
    assert (manifest(out)["kept"], manifest(out)["attrition"][-1]["dropped"]) == (11, 1)
    assert remove(out, **selection) == 0


def hashed(kind: str, seed: int) -> str:
    """Return a hash of a picture that no decision has, as its library writes it."""
    if kind in ("sha1", "md5"):
        return hashlib.new(kind, jpeg(seed), usedforsecurity=False).hexdigest().upper()
    image = Image.open(BytesIO(jpeg(seed)))
    if kind == "imagehash":
        return str(pytest.importorskip("imagehash").phash(image))
    return np.packbits(pytest.importorskip("pdqhash").compute(np.array(image))[0].astype(bool)).tobytes().hex()


@pytest.mark.parametrize("kind", ["sha1", "md5", "imagehash", "pdq"])
def test_hashes_that_no_decision_has_are_computed_of_the_tars(kind: str, out: Path) -> None:
    thumb = thumbs_of(out, "key4")
    assert remove(out, computed={kind: [(hashed(kind, 4), 0)]}) == 1
    assert holds(out, *trace(4), *thumb) == [] and len(samples(out)) == 11 and leftovers(out) == []
    assert remove(out, computed={kind: [(hashed(kind, 4), 0)]}) == 0


def test_near_pictures_are_found_by_computed_hashes(out: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    wanted = [imagehash.phash(Image.open(BytesIO(jpeg(seed)))) for seed in range(12)]
    reach = sorted(wanted[4] - other for other in wanted)[2]
    near = {f"key{seed}" for seed, other in enumerate(wanted) if wanted[4] - other <= reach}
    assert remove(out, computed={"imagehash": [(str(wanted[4]), reach)]}) == len(near)
    assert set(samples(out)) == {f"key{seed}" for seed in range(12)} - near


def test_a_fetched_image_that_is_no_sample_is_found_too(tmp_path: Path) -> None:
    recipe = RECIPE.replace("200", "9000") + "fetch: {contact: https://example.org/crawl}\n"
    rows = table(tmp_path / "a.parquet", [(url(n), f"picture of number {n}") for n in range(4)])
    out = tmp_path / "out"
    run_job(Setup(recipe, [rows], download=web_of(range(4))), out)
    assert samples(out) == {} and holds(out, jpeg(2)[-400:-50])
    assert remove(out, computed={"md5": [(hashed("md5", 2), 0)]}) == 1
    assert holds(out, jpeg(2)[-400:-50], url(2).encode()) == [] and holds(out, jpeg(1)[-400:-50])


def test_a_tar_that_cannot_be_read_is_told_before_anything_goes(out: Path) -> None:
    (out / "shards" / "00001.tar").unlink()
    before = written(out)
    with pytest.raises(OutputError, match=r"00001.tar.*nothing was removed"):
        remove(out, computed={"md5": [(hashed("md5", 4), 0)]})
    assert written(out) == before and not (out / PENDING).exists()


def test_only_touched_tars_are_written(out: Path) -> None:
    before = {path.name: path.stat().st_ino for path in (out / "shards").glob("*.tar")}
    remove(out, keys=["key11"])  # of the second block
    after = {path.name: path.stat().st_ino for path in (out / "shards").glob("*.tar")}
    assert [name for name, inode in after.items() if before[name] == inode] == ["00000.tar", "00001.tar"]


def test_copies_of_an_image_go_with_it_and_near_ones_by_radius(tmp_path: Path) -> None:
    members = [(f"{n}.jpg", jpeg(1 if n < 3 else n)) for n in range(6)] + [(f"{n}.txt", b"one of six") for n in range(6)]
    out = tmp_path / "out"
    run_job(Setup(RECIPE, [make_tar(tmp_path / "0.tar", sorted(members))]), out)
    assert remove(out, keys=["0"]) == 3
    [hashed] = {row["phash"] for row in decisions(out) if row["key"] == "4"}
    assert remove(out, phash=[(hashed ^ 0b11, 1)]) == 0
    assert remove(out, phash=[(hashed ^ 0b11, 2)]) == 1
    assert sorted(samples(out)) == ["3", "5"]


def test_every_caption_goes_with_its_record(tmp_path: Path) -> None:
    tar = shards(tmp_path, [6])
    setup, out = Setup(test_capfilt.RECIPE, tar), tmp_path / "out"
    run_job(setup, out)
    rows = [row for row in decisions(out) if row["key"] == "0002"]
    texts = [row["text"].encode() for row in rows if row["source"] == "synthetic"]
    others = {row["text"].encode() for row in decisions(out) if row["key"] != "0002" and row["text"]}
    own = [text for text in texts if not any(text in other for other in others)]
    remove(out, keys=["0002"])
    assert holds(out, b'"key":"0002"', *own) == []
    assert len([row for row in decisions(out) if row["shard_index"] == 0 and row["row"] == 2]) == 1


# For good -------------------------------------------------------------------------------------------------------------


def without(tars: list[Path], out: Path, setup: Setup, **selection: Any) -> dict[str, str]:
    """Return what one run over these tars writes where the same was taken out of an empty output before."""
    run_job(replace(setup, inputs=tars[:1]), out)
    remove(out, **selection)
    assert run_job(replace(setup, inputs=tars, into="replace"), out).failed == []
    return written(out)


def same(found: dict[str, str], wanted: dict[str, str]) -> bool:
    """Compare outputs but for thumbnails: a run takes others in the place of removed ones."""
    return {name: digest for name, digest in found.items() if not name.startswith("thumbs")} == {
        name: digest for name, digest in wanted.items() if not name.startswith("thumbs")
    }


def test_no_later_run_brings_it_back(tmp_path: Path) -> None:
    tars = shards(tmp_path, [5, 5, 5])
    setup, out, gone = Setup(COUNTED, tars[:2]), tmp_path / "out", {"keys": ["0003"]}
    run_job(setup, out)
    remove(out, **gone)
    run_job(replace(setup, inputs=tars[2:], into="add"), out)
    assert "0003" not in samples(out)
    assert same(written(out), without(tars, tmp_path / "fresh", setup, **gone))
    other = replace(setup, recipe=RECIPE, inputs=tars, into="replace")
    run_job(other, out)
    assert len(samples(out)) == 14 and holds(out, jpeg(3)[-400:-50]) == []


def test_a_copy_that_is_added_later_is_left_out(tmp_path: Path) -> None:
    first = shards(tmp_path, [4])[0]
    second = make_tar(tmp_path / "copy.tar", [("its-copy.jpg", jpeg(2)), ("its-copy.txt", b"seen before")])
    out = tmp_path / "out"
    run_job(Setup(RECIPE, [first]), out)
    remove(out, keys=["0002"])
    run_job(Setup(RECIPE, [second], into="add"), out)
    assert sorted(samples(out)) == ["0000", "0001", "0003"] and holds(out, b"seen before", b"its-copy") == []


def test_a_removed_url_is_never_fetched_again(tmp_path: Path) -> None:
    recipe = RECIPE + "fetch: {contact: https://example.org/crawl}\n"
    web = web_of(range(5))
    listed = table(tmp_path / "a.parquet", [(url(n), f"picture of number {n}") for n in range(5)])
    setup, out = Setup(recipe, [listed], download=web), tmp_path / "out"
    run_job(setup, out)
    assert remove(out, urls=[url(2)]) == 1
    assert holds(out, jpeg(2)[-400:-50], url(2).encode(), b"number 2") == []
    assert len(samples(out)) == 4
    for path in (out / "facts" / "fetch-v2").glob("*"):
        path.unlink()
    again = Web(web.answers)
    run_job(replace(setup, overrides=("min_side.larger_than=100",), download=again), out)
    assert sorted(again.asked) == sorted(url(n) for n in (0, 1, 3, 4))


# Killed ---------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill does to a process, for a test."""


@pytest.mark.parametrize("at", [0, 3, 8, 15, 22, 30, 37])
def test_a_kill_is_completed(at: int, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.storage.backend import Disk

    wanted = {"key4", "key5", "key9"}
    left, writing = [at], Disk.writing

    def dying(self: Disk, name: str) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return writing(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "writing", dying)
        with suppress(Killed):
            remove(out, keys=sorted(wanted))
    remove(out, keys=sorted(wanted))
    assert {f"key{n}" for n in range(12)} - set(samples(out)) == wanted
    assert holds(out, *trace(4), *trace(5), *trace(9)) == []
    assert not (out / PENDING).exists() and leftovers(out) == []
    assert verify(storage(out), manifest(out), InProcess()) == []


def test_a_block_that_cannot_be_written_is_not_forgotten(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: RemoveFromBlock, block: Block) -> Report:
        raise RuntimeError("the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr(RemoveFromBlock, "__call__", failing)
        with pytest.raises(OutputError, match="the disk is broken; run the same command again"):
            remove(out, keys=["key4"])
    assert (out / PENDING).exists()
    remove(out, keys=["key4"])
    assert holds(out, *trace(4)) == [] and not (out / PENDING).exists()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_first_and_does_after(out: Path, tmp_path: Path) -> None:
    before = written(out)
    dry = curate("remove", out, "--key", "key1", "--dry-run")
    assert dry.returncode == 0 and "1 record of 1 shards, 1 of them samples: would be removed" in dry.stdout
    assert written(out) == before
    withdrawn = tmp_path / "list.txt"
    withdrawn.write_text(
        f"# withdrawn\nurl https://example.org/7.jpg\n{hashlib.sha256(jpeg(8)).hexdigest()}\nkey key1\n"
        f"{hashed('md5', 9)}  # as a blocklist has it\nsha1:{hashed('sha1', 10)}\nimagehash {hashed('imagehash', 11)} 0\n"
    )
    done = curate("remove", out, "--list", withdrawn, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["number"] == 6
    assert "removed" in curate("report", out).stdout
    nothing = curate("remove", out, "--key", "key1")
    assert nothing.returncode == 1 and "nothing of it" in nothing.stdout


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "name what to remove"),
    (["--sha256", "abc"], "--sha256: sha256 has 64 hex digits, not 3"),
    (["--phash", "xyz"], "--phash: expected url, key, text or a kind of hash"),
    (["--pdq", "0123456789abcdef"], "--pdq: pdq has 64 hex digits, not 16"),
    (["--list", "list.txt"], "list.txt:1: expected url, key, text or a kind of hash, and a value: 'nonsense'"),
])  # fmt: skip
def test_a_wrong_selection_is_one_line(arguments: list[str], words: str, out: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("nonsense\n")
    done = curate("remove", out, *(str(tmp_path / "list.txt") if word == "list.txt" else word for word in arguments))
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr
