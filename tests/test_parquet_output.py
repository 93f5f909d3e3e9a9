"""`output.kind: parquet`: the samples that tars would hold, in parquet files that Hugging Face `datasets` reads as images.

Everything that works on an output works on one of these: resuming, adding, removing, merging, checking, reading it again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import curate as api
from curate.core.errors import OutputError
from curate.driver.merging import Merge
from curate.driver.removal import Removal, Selection
from curate.report.trainers import for_trainers
from curate.report.verify import verify
from curate.storage.backend import storage
from curate.storage.manifest import read_manifest
from curate.storage.samples import Packed, ParquetKind, open_samples
from curate.storage.samples import parquet as parquet_samples
from curate.storage.store import Store
from tests import test_own_tars
from tests.growing import one_run
from tests.loaders import pixels
from tests.running import InProcess, Setup, curate, make_tar, manifest, picture, run_job, written
from tests.s3 import download
from tests.test_trainers import child

RECIPE = """
filters:
  min_side: {larger_than: 100}
  caption_words: {min_words: 1}
  unreadable:
output: {samples_per_shard: 4, block_shards: 2, kind: parquet}
"""

AS_TARS = RECIPE.replace(", kind: parquet", "")


FILES = ["00000.parquet", "00001.parquet", "00002.parquet", "00003.parquet"]


def given(folder: Path, counts: tuple[int, ...] = (5, 4, 3)) -> list[Path]:
    """Return tars of some records: formats in turn, and further fields whose types differ from record to record."""
    tars = []
    for number, count in enumerate(counts):
        members = []
        for seed in range(10 * number, 10 * number + count):
            form = ("JPEG", "PNG", "WEBP", "GIF")[seed % 4]
            fields = {"score": seed if seed % 2 else "high", "url": f"http://a/{seed}"}
            members.append((f"{seed:03d}.{form.lower()}", picture(seed, form)))
            members.append((f"{seed:03d}.txt", f"a boat number {seed}, naïve".encode()))
            members.append((f"{seed:03d}.json", json.dumps(fields).encode()))
        tars.append(make_tar(folder / f"{number}.tar", members))
    return tars


@pytest.fixture
def out(tmp_path: Path) -> Path:
    run_job(Setup(RECIPE, given(tmp_path / "in")), tmp_path / "out")
    return tmp_path / "out"


def opened(image: bytes) -> Any:
    return Image.open(io.BytesIO(image))


def sha1(image: bytes) -> str:
    return hashlib.sha1(image, usedforsecurity=False).hexdigest()


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def well(out: Path) -> bool:
    return verify(storage(out), manifest(out), InProcess()) == []


def test_it_holds_what_tars_hold(out: Path, tmp_path: Path) -> None:
    run_job(Setup(AS_TARS, given(tmp_path / "in")), tmp_path / "tars")
    assert sorted(path.name for path in (out / "shards").iterdir()) == [*FILES, "sizes.json"]
    assert json.loads((out / "shards/sizes.json").read_text()) == dict(zip(FILES, (4, 4, 1, 3), strict=True))
    found, expected = rows(out), list(api.samples(tmp_path / "tars"))
    assert len(found) == 12
    for row, sample in zip(found, expected, strict=True):
        assert (row["key"], row["text"], json.loads(row["json"])) == (sample.key, sample.text, sample.about)
        assert row["image"] == {"bytes": sample.image, "path": f"{sample.key}.{sample.extension}"}
        for name in ("url", "width", "height", "format", "sha256", "evidence", "texts"):
            assert row[name] == sample.about[name]
    assert list(api.samples(out)) == expected
    assert well(out)


def test_datasets_reads_it_as_it_is_told(out: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs datasets (extra dev)")
    [line] = for_trainers(str(out), manifest(out))
    call = line.removeprefix("datasets: ")
    strings = {"datasets": call, "datasets streaming": call, "datasets of a folder": str(out)}
    held = sorted((row["text"], pixels(opened(row["image"]["bytes"])), json.loads(row["json"])["key"]) for row in rows(out))
    assert child(strings, tmp_path) == dict.fromkeys(strings, held)


def test_the_card_and_croissant_name_these_files(out: Path) -> None:
    text = (out / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "shards/*.parquet"}]
    assert "dataset_info" not in head and "parquet files" in text
    sets = json.loads((out / "croissant.json").read_text())["distribution"]
    assert [len(list(out.glob(one["includes"]))) for one in sets] == [4, 4]


def test_a_card_follows_the_kind_of_the_files(out: Path, tmp_path: Path) -> None:
    path = out / "README.md"
    path.write_text(path.read_text().replace("license: unknown", "license: cc0-1.0"))
    run_job(Setup(AS_TARS, given(tmp_path / "in"), ("output.extension=png",)), out)
    head = yaml.safe_load(path.read_text().split("---")[1])
    assert head["license"] == "cc0-1.0"
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "shards/*.tar"}]
    assert [one["name"] for one in head["dataset_info"][0]["features"]] == ["png", "txt", "json"]
    tars = [f"0000{number}.tar" for number in range(4)]
    assert sorted(one.name for one in (out / "shards").iterdir()) == [*tars, "index.json", "sizes.json"]
    run_job(Setup(RECIPE, given(tmp_path / "in")), out)
    assert sorted(one.name for one in (out / "shards").iterdir()) == [*FILES, "sizes.json"]
    assert "shards/*.parquet" in path.read_text() and well(out)


def test_what_is_added_gives_the_bytes_of_one_run(out: Path, tmp_path: Path) -> None:
    """The first block is filled up by the second tar: it is written again, from its own parquet files."""
    tars = given(tmp_path / "in")
    run_job(Setup(RECIPE, tars[:1]), tmp_path / "grown")
    run_job(Setup(RECIPE, tars, into="add"), tmp_path / "grown")
    assert written(tmp_path / "grown") == one_run(Setup(RECIPE, tars), tmp_path / "grown", tmp_path / "one")
    assert [(tmp_path / "grown/shards" / name).read_bytes() for name in FILES] == [
        (out / "shards" / name).read_bytes() for name in FILES
    ]


@pytest.mark.parametrize("selection", [{"keys": ["002"]}, {"computed": True}])
def test_records_are_taken_out(selection: dict[str, Any], out: Path) -> None:
    before = list(api.samples(out))
    gone = before[2]
    wanted = Selection(keys=["002"]) if "keys" in selection else Selection(computed={"sha1": [(sha1(gone.image), 0)]})
    assert Removal(Store(storage(out)), InProcess()).remove(wanted, "2026-11-28").number == 1
    assert list(api.samples(out)) == [one for one in before if one.key != gone.key]
    assert not any(gone.image in path.read_bytes() for path in (out / "shards").iterdir())
    assert pq.read_schema(out / "shards" / FILES[0]).metadata == pq.read_schema(out / "shards" / FILES[2]).metadata
    assert well(out)


def test_two_are_merged_and_records_taken_out_of_the_merge(out: Path, tmp_path: Path) -> None:
    other = RECIPE.replace("kind:", "key_prefix: x, kind:")
    run_job(Setup(other, given(tmp_path / "b_in", (2, 6))), tmp_path / "b")
    done = curate("merge", out, tmp_path / "b", "--out", tmp_path / "c", "--duplicates", "drop")
    assert done.returncode == 0, done.stderr
    assert "parquet files" in done.stdout and 'load_dataset("parquet"' in done.stdout
    assert [one.key for one in api.samples(tmp_path / "c")][:12] == [one.key for one in api.samples(out)]
    assert len(list(api.samples(tmp_path / "c"))) == 12 + 2  # 014 and 015
    assert well(tmp_path / "c")


def test_an_output_on_s3_grows_and_shrinks(bucket: str, tmp_path: Path) -> None:
    tars, there = given(tmp_path / "in"), storage(f"{bucket}/out")
    run_job(Setup(RECIPE, tars[:1]), tmp_path / "there", at=f"{bucket}/out")
    run_job(Setup(RECIPE, tars, into="add"), tmp_path / "there", at=f"{bucket}/out")
    first = next(iter(api.samples(f"{bucket}/out")))
    assert Removal(Store(there), InProcess()).remove(Selection(sha256=[first.about["sha256"]]), "2026-11-28").number == 1
    assert verify(there, read_manifest(there), InProcess()) == []
    here = download(f"{bucket}/out", tmp_path / "here")
    assert written(here) == one_run(Setup(RECIPE, tars), here, tmp_path / "one")


def merged(out: Path, other: Path, tmp_path: Path) -> None:
    Merge([storage(out), storage(other)], Store(storage(tmp_path / "c")), InProcess()).merge()


def test_what_does_not_go_together_is_one_line(out: Path, tmp_path: Path) -> None:
    prefixed = RECIPE.replace("kind:", "key_prefix: x, kind:")
    run_job(Setup(prefixed.replace(", kind: parquet", ""), given(tmp_path / "in")), tmp_path / "tars")
    with pytest.raises(OutputError, match=r"out has parquet and .*tars has tars: run one of them again"):
        merged(out, tmp_path / "tars", tmp_path)
    run_job(Setup(prefixed.replace("  caption_words: {min_words: 1}\n", ""), given(tmp_path / "in")), tmp_path / "fewer")
    with pytest.raises(OutputError, match="have other columns"):
        merged(out, tmp_path / "fewer", tmp_path)


def test_damage_is_found(out: Path) -> None:
    path = out / "shards" / FILES[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = curate("verify", out)
    assert done.returncode == 1
    assert f"{FILES[1]}: sha256 differs from the manifest's" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_it_is_input_again_as_tars_are(tmp_path: Path) -> None:
    """First keys, all texts and their scores, and further fields go on; none is there twice or under our own names."""
    recipe = test_own_tars.CAPFILT.replace("min_tokens: 3,", "min_tokens: 1,")
    again = {}
    for kind in ("tars", "parquet"):
        run_job(Setup(recipe, given(tmp_path / "in"), (f"output.kind={kind}",)), tmp_path / kind)
        run_job(Setup(AS_TARS, [tmp_path / kind]), tmp_path / f"{kind}_again")
        again[kind] = [
            (one.image, one.text, {name: value for name, value in one.about.items() if name not in ("shard", "row")})
            for one in api.samples(tmp_path / f"{kind}_again")
        ]
    assert again["parquet"] == again["tars"]
    assert len(again["tars"]) == len(list(api.samples(tmp_path / "tars"))) > 6
    assert all("earlier_texts" in about and "score" in about for _, _, about in again["tars"])


def test_fields_of_the_first_input_can_be_kept_and_others_are_an_error(out: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(AS_TARS)
    line = ("run", tmp_path / "recipe.yaml", out, "--out", tmp_path / "again", "--set")
    done = curate(*line, "output.keep=height")
    assert done.returncode == 1 and "no field 'height'" in done.stderr
    done = curate(*line, "output.keep=score")
    assert done.returncode == 0, done.stderr
    assert {one.about["score"] for one in api.samples(tmp_path / "again")} == {one.about["score"] for one in api.samples(out)}


def test_a_table_that_only_looks_like_ours_is_believed_nothing(out: Path, tmp_path: Path) -> None:
    table = pq.read_table(out / "shards" / FILES[0])
    told = pa.array(["{}", "no json", None, '{"key":"x"}'])
    pq.write_table(table.set_column(table.schema.get_field_index("json"), "json", told), tmp_path / "0.parquet")
    run_job(Setup(AS_TARS, [tmp_path / "0.parquet"]), tmp_path / "again")
    assert [(one.about["key"], one.text) for one in api.samples(tmp_path / "again")] == [
        (row["key"], row["text"]) for row in table.to_pylist()
    ]


def test_row_groups_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_samples, "GROUP_BYTES", 1000)
    samples = [Packed(f"k{n}", "jpg", bytes([n]) * 300, b'{"texts":[],"width":3}', b"a boat") for n in range(9)]
    kind = ParquetKind.of({}, {})
    with kind.writer(tmp_path / "a.parquet") as writer:
        places = [writer.add(sample) for sample in samples]
        writer.close()
    about = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [about.row_group(group).num_rows for group in range(about.num_row_groups)] == [3, 3, 3]
    with open_samples(tmp_path / "a.parquet", "shards/00000.parquet") as reader:
        assert list(reader) == samples
        assert [reader.image(place, 300) for place in reversed(places)] == [one.image for one in reversed(samples)]
        assert (reader.image(9, 300), reader.about(4, 300)) == (b"", samples[4].about)


def test_a_wrong_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("kind: parquet", "kind: feather"))
    done = curate("plan", tmp_path / "recipe.yaml")
    assert done.returncode == 2
    assert "kind" in done.stderr and "parquet" in done.stderr
