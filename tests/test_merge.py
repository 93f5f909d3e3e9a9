"""One dataset of several outputs: the same tars, everything else joined, the outputs untouched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest

from curate.core.errors import InputError, OutputError
from curate.driver.merging import Merge, Merged
from curate.report.find import find
from curate.report.verify import verify
from curate.report.what_if import what_if
from curate.storage.backend import storage
from curate.storage.manifest import read_manifest
from curate.storage.store import Store
from tests import test_capfilt
from tests.growing import dying_after
from tests.running import (
    KEEP_ALL,
    InProcess,
    Setup,
    curate,
    decisions,
    jpeg,
    leftovers,
    make_tar,
    manifest,
    run_job,
    stamps,
    written,
)
from tests.test_pack import samples
from tests.test_remove import holds, remove

SMALL = """
filters:
  caption_words: {min_words: 3}
  min_side: {larger_than: 250}
  unreadable:
output: {samples_per_shard: 3, block_shards: 3}
"""


def tars(folder: Path, name: str, seeds: Iterable[range], text: str = "a picture of thing") -> list[Path]:
    """Return tars of the pictures of these seeds; another name gives other keys of samples."""
    found = []
    for at, some in enumerate(seeds):
        members: list[tuple[str, bytes]] = []
        for seed in some:
            about = json.dumps({"url": f"https://example.org/{seed}.jpg"}).encode()
            members += [(f"{name}{seed:03d}.jpg", jpeg(seed)), (f"{name}{seed:03d}.txt", f"{text} {seed}".encode())]
            members.append((f"{name}{seed:03d}.json", about))
        found.append(make_tar(folder / f"{name}{at}.tar", members))
    return found


def merge(outs: Iterable[Path], out: Path, duplicates: Literal["keep", "drop"] = "keep") -> Merged:
    """Merge in this process."""
    return Merge([storage(one) for one in outs], Store(storage(out)), InProcess(), duplicates).merge()


def wrong(out: Path) -> list[str]:
    """Return what verify finds."""
    return verify(storage(out), manifest(out), InProcess())


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """Return an output of three shards, whose last block of two is not full."""
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "a", [range(5), range(5, 8), range(8, 10)])), tmp_path / "a" / "out")
    return tmp_path / "a" / "out"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    """Return an output of other pictures but two, which `a` has with the same text."""
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "b", [range(20, 26), range(8, 10), range(30, 33)])), tmp_path / "b" / "out")
    return tmp_path / "b" / "out"


def in_order(*outs: Path) -> list[tuple[bytes, bytes]]:
    """Return the tars of outputs with their indexes."""
    found = [path for out in outs for path in sorted((out / "shards").glob("*.tar"))]
    return [(path.read_bytes(), (path.parents[1] / "index" / f"{path.stem}.parquet").read_bytes()) for path in found]


def test_a_merge_holds_both_as_they_are(a: Path, b: Path, tmp_path: Path) -> None:
    before, out = (stamps(a), stamps(b)), tmp_path / "c"
    done = merge([a, b], out)
    assert (done.state, done.records, done.kept, done.tars, done.duplicates) == ("done", 21, 21, 6, 0)
    assert in_order(out) == in_order(a, b)
    assert sorted(path.name for path in (out / "shards").glob("*.tar")) == [f"{number:05d}.tar" for number in range(6)]
    assert (out / "shards/00000.tar").stat().st_ino == (a / "shards/00000.tar").stat().st_ino
    assert (out / "shards/00005.tar").stat().st_ino == sorted((b / "shards").glob("*.tar"))[-1].stat().st_ino
    assert wrong(out) == [] and leftovers(out) == []
    assert (stamps(a), stamps(b)) == before
    rows = [{**row, "shard_index": row["shard_index"] + 3} for row in decisions(b)]
    assert decisions(out) == decisions(a) + rows
    thumbs = [pq.read_table(path)["shard_index"].to_pylist() for path in sorted((out / "thumbs").glob("*"))]
    assert [set(some) for some in thumbs] == [{number} for number in range(6)]
    about = manifest(out)
    assert [one["out"] for one in about["merged_from"]] == [str(a), str(b)] and about["input"]["shards"] == 6
    assert about["attrition"] == [{"filter": "unreadable", "seen": 21, "dropped": 0, "left": 21}]
    sizes = json.loads((out / "shards/sizes.json").read_text())
    assert list(sizes) == [f"{number:05d}.tar" for number in range(6)] and sum(sizes.values()) == 21
    assert merge([a, b], out).state == "nothing to do"


def test_outputs_of_different_recipes(a: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "b" / "out", tmp_path / "c"
    run_job(Setup(SMALL, tars(tmp_path / "in", "b", [range(20, 24), range(24, 25)]), ("min_side.larger_than=230",)), other)
    merge([a, other], out)
    assert wrong(out) == []
    about = manifest(out)
    assert about["filters"] == ["unreadable", "caption_words", "min_side"] and about["kept"] == 15
    assert {row["shard_index"]: row["not_evaluated"] for row in decisions(out)} == {
        0: ["caption_words", "min_side"], 1: ["caption_words", "min_side"], 2: ["caption_words", "min_side"], 3: [], 4: [],
    }  # fmt: skip
    with pytest.raises(OutputError, match="different filters or thresholds: ask what-if of each"):
        what_if(storage(out), about, [])
    report = curate("report", out)
    assert report.returncode == 0 and "caption_words" in report.stdout
    why = curate("why", out, "b020")
    assert why.returncode == 0 and "kept" in why.stdout
    assert len(samples(out)) == 15


def test_what_if_of_one_recipe(tmp_path: Path) -> None:
    one, other, out = tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "c"
    override = ("min_side.larger_than=230",)
    run_job(Setup(SMALL, tars(tmp_path / "in", "a", [range(4)]), override), one)
    run_job(Setup(SMALL, tars(tmp_path / "in", "b", [range(2, 7)]), override), other)
    merge([one, other], out, "drop")
    found = what_if(storage(out), manifest(out), ["min_side.larger_than=200"])
    assert (found.records, found.kept, found.was) == (9, 7, 7)  # what was dropped as a duplicate does not come back
    assert what_if(storage(out), manifest(out), ["min_side.larger_than=250"]).kept == 0


def test_diff_finds_shards_in_a_merge(a: Path, b: Path, tmp_path: Path) -> None:
    merge([a, b], tmp_path / "c")
    found = curate("diff", b, tmp_path / "c", "--json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert (told["both"], told["by_content"], told["only_a"], told["only_b"]) == (11, 0, 0, 10)


def test_a_merge_of_a_merge(a: Path, b: Path, tmp_path: Path) -> None:
    third, out = tmp_path / "d" / "out", tmp_path / "e"
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "d", [range(40, 43)])), third)
    merge([a, b], tmp_path / "c")
    merge([third, tmp_path / "c"], out)
    assert in_order(out) == in_order(third, a, b) and wrong(out) == []


# Taken out ------------------------------------------------------------------------------------------------------------


def test_records_can_be_taken_out_of_a_merge(a: Path, b: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    merge([a, b], out)
    before = (written(a), written(b), stamps(a), stamps(b))
    whole = samples(out)
    assert remove(out, keys=["a009", "b021", "b031"]) == 4  # a009 is also b009
    left = samples(out)
    assert set(whole) - set(left) == {"a009", "b009", "b021", "b031"}
    assert all(left[key]["jpg"] == whole[key]["jpg"] for key in left)
    assert holds(out, jpeg(9)[-400:-50], b"thing 9", jpeg(21)[-400:-50], b"thing 21", b"b031") == []
    assert wrong(out) == [] and leftovers(out) == []
    assert (written(a), written(b), stamps(a), stamps(b)) == before
    assert merge([a, b], out).state == "nothing to do"
    assert set(samples(out)) == set(left)


def test_what_was_taken_out_of_one_is_in_no_part(a: Path, b: Path, tmp_path: Path) -> None:
    assert remove(a, keys=["a008"]) == 1
    done = merge([a, b], tmp_path / "c")
    assert (done.kept, done.removed) == (19, 1)
    assert "b008" in samples(b) and not {"a008", "b008"} & set(samples(tmp_path / "c"))
    assert holds(tmp_path / "c", jpeg(8)[-400:-50], b"thing 8") == [] and wrong(tmp_path / "c") == []


# Duplicates -----------------------------------------------------------------------------------------------------------


def test_duplicates_are_dropped_of_the_later(a: Path, b: Path, tmp_path: Path) -> None:
    before, out = (stamps(a), stamps(b)), tmp_path / "c"
    done = merge([a, b], out, "drop")
    assert (done.kept, done.duplicates, done.records) == (19, 2, 21)
    assert {"a008", "a009"} <= set(samples(out)) and not {"b008", "b009"} & set(samples(out))
    dropped = [row for row in decisions(out) if row["dropped_by"] is not None]
    assert [(row["key"], row["dropped_by"], row["failed"], row["sample_key"]) for row in dropped] == [
        (key, "merge_duplicate", ["merge_duplicate"], None) for key in ("b008", "b009")
    ]
    assert manifest(out)["attrition"][-1] == {"filter": "merge_duplicate", "seen": 21, "dropped": 2, "left": 19}
    assert wrong(out) == [] and leftovers(out) == [] and (stamps(a), stamps(b)) == before
    first = merge([b, a], tmp_path / "other", "drop")
    assert first.kept == 19 and "b008" in samples(tmp_path / "other") and "a008" not in samples(tmp_path / "other")
    assert remove(out, keys=["a008"]) == 2 and wrong(out) == []


def test_an_image_with_another_text_is_no_duplicate(a: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / "out"
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "b", [range(3)], "another text of")), other)
    assert merge([a, other], tmp_path / "c", "drop").duplicates == 0


def test_a_whole_output_of_duplicates(a: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "b" / "out", tmp_path / "c"
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "b", [range(5), range(5, 10)])), copy)
    done = merge([a, copy], out, "drop")
    assert (done.kept, done.duplicates, done.tars) == (10, 10, 3)
    assert in_order(out) == in_order(a) and wrong(out) == []


def test_captions_go_with_their_record(a: Path, tmp_path: Path) -> None:
    written_too, out = tmp_path / "b" / "out", tmp_path / "c"
    run_job(Setup(test_capfilt.RECIPE, tars(tmp_path / "in", "b", [range(8, 12)])), written_too)
    kept = {row["key"] for row in decisions(written_too) if row["sample_key"] is not None}
    assert {"b008", "b009"} & kept
    done = merge([a, written_too], out, "drop")
    assert done.duplicates == len({"b008", "b009"} & kept) and done.kept == 10 + len(kept - {"b008", "b009"})
    assert wrong(out) == []
    for row in decisions(out):
        if row["key"] in ("b008", "b009"):
            assert row["sample_key"] is None and row["dropped_by"] is not None
        if row["key"] == "a000":
            assert "caption_match" in row["not_evaluated"]
    assert curate("why", out, "b008").returncode == 0


# Refused --------------------------------------------------------------------------------------------------------------


def test_keys_must_differ(a: Path, b: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / "out"
    run_job(Setup(SMALL, sorted((tmp_path / "in").glob("a*.tar")), ("min_side.larger_than=230",)), again)
    key = min(sample["sample_key"] for sample in samples(a).values())
    with pytest.raises(OutputError, match=f"both have a sample with the key {key}: .*output.key_prefix"):
        merge([b, a, again], tmp_path / "c")
    prefixed = tmp_path / "prefixed" / "out"
    overrides = ("min_side.larger_than=230", "output.key_prefix=second")
    run_job(Setup(SMALL, sorted((tmp_path / "in").glob("a*.tar")), overrides), prefixed)
    assert merge([a, prefixed], tmp_path / "c", "drop").kept == 10


def test_what_cannot_be_merged_is_one_line(a: Path, b: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    before = stamps(tmp_path)
    for arguments, words in (
        ([a], "name two outputs"),
        ([a, a], "is named twice"),
        ([a, tmp_path / "in" / ".." / "a" / "out"], "is named twice"),
        ([a, tmp_path / "empty"], "holds no finished run"),
    ):
        with pytest.raises((InputError, OutputError), match=words):
            merge(arguments, tmp_path / "c")
    for inside in (a / "c", a, a.parent):
        with pytest.raises(InputError, match="overlap; choose another --out"):
            merge([a, b], inside)
    with pytest.raises(OutputError, match="is not empty"):
        merge([a, b], other)
    with pytest.raises(OutputError, match="is not empty and not a merge"):
        run_job(Setup(KEEP_ALL, tars(tmp_path / "more", "z", [range(2)])), tmp_path / "z" / "out")
        merge([a, b], tmp_path / "z" / "out")
    assert {name: stamp for name, stamp in stamps(tmp_path).items() if not name.startswith(("z/", "more/"))} == before


def test_nothing_is_run_into_a_merge(a: Path, b: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    merge([a, b], out)
    before = stamps(out)
    for into in ("same", "replace", "add"):
        with pytest.raises(OutputError, match="is merged of other outputs"):
            run_job(Setup(KEEP_ALL, sorted((tmp_path / "in").glob("a*.tar")), into=into), out)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="is merged of other outputs, or of these as they were before"):
        merge([b, a], out)
    assert stamps(out) == before
    assert remove(a, keys=["a000"]) == 1
    with pytest.raises(OutputError, match="or of these as they were before"):
        merge([a, b], out)


def test_damaged_decisions_are_not_taken_over(a: Path, b: Path, tmp_path: Path) -> None:
    (b / "decisions/000001.parquet").write_bytes((b / "decisions/000000.parquet").read_bytes())
    with pytest.raises(OutputError, match=r"decisions/000001.parquet differs from its manifest"):
        merge([a, b], tmp_path / "c")


# Killed, elsewhere ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(2, 66, 7))
def test_a_kill_is_completed(at: int, a: Path, b: Path, tmp_path: Path) -> None:
    remove(a, keys=["a001"])
    out, before = tmp_path / "c", (stamps(a), stamps(b))
    with dying_after(at):
        merge([b, a], out, "drop")
    merge([b, a], out, "drop")
    merge([b, a], tmp_path / "fresh", "drop")
    assert written(out) == written(tmp_path / "fresh")
    assert (out / "report.html").read_bytes() == (tmp_path / "fresh" / "report.html").read_bytes()
    assert leftovers(out) == [] and wrong(out) == []
    assert (stamps(a), stamps(b)) == before


def test_another_disk_gets_copies(a: Path, b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def refused(old: Path, new: Path) -> None:
        if Path(old).suffix in (".tar", ".parquet"):
            raise OSError(errno.EXDEV, "another disk")
        link(old, new)

    monkeypatch.setattr(os, "link", refused)
    merge([a, b], tmp_path / "c")
    assert in_order(tmp_path / "c") == in_order(a, b)
    assert (tmp_path / "c/shards/00000.tar").stat().st_nlink == 1


def test_into_and_between_stores(a: Path, b: Path, tmp_path: Path) -> None:
    there, again = storage("memory://merged/c"), storage("memory://merged/d")
    third = tmp_path / "d" / "out"
    run_job(Setup(KEEP_ALL, tars(tmp_path / "in", "d", [range(40, 43)])), third)
    Merge([storage(a), storage(b)], Store(there), InProcess(), "drop").merge()
    assert verify(there, read_manifest(there), InProcess()) == []
    Merge([there, storage(third)], Store(again), InProcess()).merge()
    assert verify(again, read_manifest(again), InProcess()) == []
    assert read_manifest(again)["kept"] == 22 and len(find(again, "d041")) == 1
    assert again.read("shards/00000.tar") == (a / "shards/00000.tar").read_bytes()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(a: Path, b: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done = curate("merge", a, b, "--out", out, "--duplicates", "drop", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "2 outputs: 19 of 21 records kept" in done.stdout and "2 dropped, since an output before keeps" in done.stdout
    again = curate("merge", a, b, "--out", out, "--duplicates", "drop", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["state"] == "nothing to do"
    assert curate("verify", out).returncode == 0
    removed = curate("remove", out, "--sha256", hashlib.sha256(jpeg(22)).hexdigest())
    assert removed.returncode == 0 and "1 record" in removed.stdout and curate("verify", out).returncode == 0
    refused = curate("merge", a, a, "--out", tmp_path / "d")
    assert refused.returncode == 1 and refused.stderr == f"curate: {a} is named twice\n"
    assert curate("merge", a, tmp_path / "nothing", "--out", tmp_path / "d").returncode == 2
