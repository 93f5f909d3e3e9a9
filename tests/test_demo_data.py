"""The demo data: small enough, what its truth says it is, and from nowhere but where copies are allowed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import warnings
from collections import Counter
from pathlib import Path

import imagehash
import pytest
from PIL import Image

from tests import make_demo_data

ALLOWED = {"site_18f", "openclipart", "coco_mini_ccby", "neardup_pdq", "neardup_imagededup", "adversarial_pillow"}
MADE = {"made"}
IMAGES = {"jpg", "png", "webp", "gif"}

Record = dict[str, bytes]


def jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def records(demo: Path) -> dict[tuple[str, str], Record]:
    """(tar, key) -> extension -> bytes."""
    out: dict[tuple[str, str], Record] = {}
    for path in sorted((demo / "pairs").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, ext = member.name.split(".")
                body = tar.extractfile(member)
                assert body is not None
                out.setdefault((path.name, key), {})[ext] = body.read()
    return out


@pytest.fixture(scope="module")
def truth(demo: Path) -> dict[tuple[str, str], dict[str, object]]:
    return {(str(row["file"]), str(row["key"])): row for row in jsonl(demo / "truth.jsonl")}


def image_of(record: Record) -> bytes | None:
    return next((body for ext, body in record.items() if ext in IMAGES), None)


def decodes(data: bytes) -> bool:
    """Say whether Pillow decodes an image to its end without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError):
            return False
    return True


def with_defect(truth: dict[tuple[str, str], dict[str, object]], defect: str) -> list[tuple[str, str]]:
    return [where for where, row in truth.items() if defect in row["defects"]]  # type: ignore[operator]


def test_fits_into_a_repository(demo: Path) -> None:
    sizes = [path.stat().st_size for path in demo.rglob("*") if path.is_file()]
    assert sum(sizes) <= 11 << 20
    assert max(sizes) <= 4 << 20


def test_truth_names_every_record_once(records: dict, truth: dict, demo: Path) -> None:
    assert list(truth) == list(records)
    assert len(jsonl(demo / "truth.jsonl")) == len(records)
    assert 600 <= len(records) <= 900
    keys = Counter(key for _, key in records)
    assert max(keys.values()) == 1


def test_every_defect_is_planted_often_enough_to_be_seen(truth: dict) -> None:
    counts = Counter(defect for row in truth.values() for defect in row["defects"])
    assert counts["overused_image"] > make_demo_data.OVERUSED
    assert counts["shared_text"] > make_demo_data.SHARED
    often = ("too_small", "too_long", "few_words", "many_words", "gibberish", "broken", "eval_copy", "duplicate_pair")
    assert not [defect for defect in often if counts[defect] < 10]
    assert counts["no_text"] == counts["no_image"] == 1
    assert sum(not row["defects"] for row in truth.values()) > 200
    assert {"animated", "cmyk", "sixteen_bit", "exif_rotated", "non_english", "unicode", "not_utf8"} <= {
        trait for row in truth.values() for trait in row["traits"]
    }


def test_parts_are_missing_where_truth_says_so(records: dict, truth: dict) -> None:
    assert [where for where, record in records.items() if "txt" not in record] == with_defect(truth, "no_text")
    assert [where for where, record in records.items() if image_of(record) is None] == with_defect(truth, "no_image")


def test_broken_files_and_only_they_do_not_decode(records: dict, truth: dict) -> None:
    images = {where: data for where, record in records.items() if (data := image_of(record)) is not None}
    failing = [where for where, data in images.items() if not decodes(data)]
    assert failing == with_defect(truth, "broken")


def test_sizes_and_words_are_as_truth_says(records: dict, truth: dict) -> None:
    for where, record in records.items():
        defects, data = truth[where]["defects"], image_of(record)
        if "txt" in record:
            text = record["txt"].decode("utf-8", "replace")
            unspaced = sum("\u3040" <= character <= "\u9fff" for character in text)  # Chinese and Japanese, two a word
            words = max(len(text.split()), unspaced // 2)
            assert ("few_words" in defects, "many_words" in defects) == (words < 3, words > 20), where
        if data is not None and "broken" not in defects:
            sides = sorted(Image.open(io.BytesIO(data)).size)
            assert ("too_small" in defects, "too_long" in defects) == (sides[0] <= 200, sides[1] >= 3 * sides[0]), where


def test_unusual_pictures_are_what_they_are_called(records: dict, truth: dict) -> None:
    pictures = {trait: where for where, row in truth.items() for trait in row["traits"]}

    def opened(trait: str) -> Image.Image:
        return Image.open(io.BytesIO(image_of(records[pictures[trait]]) or b""))

    assert opened("cmyk").mode == "CMYK"
    assert opened("sixteen_bit").mode == "I;16"
    assert getattr(opened("animated"), "n_frames", 1) > 1
    assert opened("exif_rotated").getexif()[0x0112] == 6


def test_evaluation_photos_are_in_the_pairs_only_as_marked_copies(records: dict, truth: dict, demo: Path) -> None:
    photos = {path.name: path.read_bytes() for path in sorted((demo / "eval").glob("*.jpg"))}
    assert 12 <= len(photos) <= 16
    hashes = {name: imagehash.phash(Image.open(io.BytesIO(data))) for name, data in photos.items()}
    for where, record in records.items():
        data, copy_of = image_of(record), truth[where]["copy_of"]
        assert (copy_of is not None) == ("eval_copy" in truth[where]["defects"])
        if copy_of is None:
            assert data not in photos.values()
        else:
            assert data is not None
            assert imagehash.phash(Image.open(io.BytesIO(data))) - hashes[copy_of] <= 12  # unrelated: about 32
    sources = {row["source"] for row in jsonl(demo / "eval_sources.jsonl")}
    assert not [row for row in truth.values() if row["source"] in sources and row["copy_of"] is None]


def test_every_source_is_allowed_and_attributed(truth: dict, demo: Path) -> None:
    rows = [*truth.values(), *jsonl(demo / "eval_sources.jsonl")]
    text = (demo.parent / "ATTRIBUTION.md").read_text("utf-8")
    for source in {str(row["source"]) for row in rows}:
        name, _, path = source.partition("/")
        assert name in ALLOWED | MADE
        assert f"| {name} |" in text
        if name == "coco_mini_ccby":
            line = next(line for line in text.splitlines() if line.startswith(f"| {path} |"))
            assert "creativecommons.org/licenses/" in line
            assert "staticflickr.com" in line


def test_nothing_comes_from_a_set_that_must_not_be_copied(shared: Path, records: dict, truth: dict, demo: Path) -> None:
    with (shared / "data" / "MANIFEST.tsv").open(encoding="utf-8") as file:
        manifest = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    allowed = {digest for name, _, _, digest, _ in manifest if name in ALLOWED}
    forbidden = {digest for name, _, _, digest, _ in manifest if name not in ALLOWED} - allowed
    bodies = [body for record in records.values() for body in record.values()]
    bodies += [path.read_bytes() for path in (demo / "eval").iterdir()]
    assert not forbidden & {hashlib.sha256(body).hexdigest() for body in bodies if body}
    files = {f"{name}/{path}" for name, path, _, _, _ in manifest}
    assert {row["source"] for row in truth.values()} - files == MADE


def test_the_evaluation_set_and_the_attribution_are_made_again_alike(shared: Path, demo: Path, tmp_path: Path) -> None:
    make_demo_data.write_evals(tmp_path, make_demo_data.eval_set())
    assert (demo.parent / "ATTRIBUTION.md").read_text("utf-8") == make_demo_data.attribution()
    for path in (tmp_path / "eval").iterdir():
        again, there = Image.open(path), Image.open(demo / "eval" / path.name)
        assert imagehash.phash(again) == imagehash.phash(there)
        assert again.size == there.size
    assert (tmp_path / "eval_sources.jsonl").read_bytes() == (demo / "eval_sources.jsonl").read_bytes()
