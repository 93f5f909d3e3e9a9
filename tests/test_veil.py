"""Pictures that no report shows: those on a block list, and, unless asked for, those that are not safe for work."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from curate.cli import main
from curate.images.thumbnails import blurred, thumbnail
from curate.models.fakes import FakeClassifier
from curate.models.protocols import Floats, Pixels
from tests.running import Setup, decisions, jpeg, make_tar, run_job

RECIPE = """
filters:
  min_side: {larger_than: 200}
  unreadable:
  eval_overlap: {method: hash, sets: [EVALS]}
  nsfw: {classifier: fake}
  blocklist: {lists: [BANS]}
output: {samples_per_shard: 4}
"""
CAPTIONED = "captions: {model: fake, min_tokens: 3}" + RECIPE.replace(
    "  unreadable:", "  caption_words: {min_words: 3}\n  unreadable:\n  caption_match: {matcher: fake, at_least: 0.01}"
)


def chequered(colour: str, size: tuple[int, int] = (256, 240), seed: int = 0) -> bytes:
    """Return squares of a colour on black, whose hash no other seed has."""
    squares = np.random.default_rng(seed).integers(0, 2, (16, 16), np.uint8) * 255
    mask = Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    Image.composite(Image.new("RGB", size, colour), Image.new("RGB", size), mask).save(file, "JPEG", quality=90)
    return file.getvalue()


SMALL = (190, 180)
IMAGES = {
    "plain": jpeg(1),
    "plain_small": jpeg(2, SMALL),
    "listed": jpeg(3),
    "listed_small": jpeg(4, SMALL),
    "listed_leaked": jpeg(5),
    "listed_red": chequered("red", seed=6),
    "red": chequered("red", seed=7),
    "red_small": chequered("red", SMALL, 8),
    "red_leaked": chequered("red", seed=9),
}
DROPPED = {
    "plain": None, "plain_small": "min_side", "listed": "blocklist", "listed_small": "min_side", "listed_leaked": "eval_overlap",
    "listed_red": "nsfw", "red": "nsfw", "red_small": "min_side", "red_leaked": "eval_overlap",
}  # fmt: skip


@pytest.fixture(autouse=True)
def red_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(self: FakeClassifier, pixels: Pixels) -> Floats:
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1)
        return (means[:, 0] > means[:, 2] + 60).astype(np.float32)

    monkeypatch.setattr(FakeClassifier, "scores", scores)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    listed = [hashlib.sha1(data, usedforsecurity=False).hexdigest() for name, data in IMAGES.items() if "listed" in name]
    (tmp_path / "bans.txt").write_text("\n".join(listed))
    for name in ("listed_leaked", "red_leaked"):
        (tmp_path / "evals").mkdir(exist_ok=True)
        (tmp_path / "evals" / f"{name}.jpg").write_bytes(IMAGES[name])
    return Setup(filled(RECIPE, tmp_path), [tar_of(list(IMAGES), "a thing of sorts", tmp_path / "0.tar")])


def tar_of(names: list[str], text: str, path: Path) -> Path:
    ends = [(".jpg", IMAGES), (".txt", dict.fromkeys(IMAGES, text.encode()))]
    return make_tar(path, [(f"{name}{end}", bodies[name]) for name in names for end, bodies in ends])


def filled(recipe: str, tmp_path: Path) -> str:
    return recipe.replace("BANS", str(tmp_path / "bans.txt")).replace("EVALS", str(tmp_path / "evals"))


def thumbs(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "thumbs" / "000000.parquet").to_pylist()
    return rows


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def detail(picture: bytes) -> float:
    """Return how much two neighbouring pixels differ at most, 0 to 255."""
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(float)
    return float(max(np.abs(np.diff(grey, axis=axis)).max() for axis in (0, 1)))


def check_listed(out: Path, shown: str) -> None:
    """Check that nothing under `out` draws an image that is listed."""
    for row in thumbs(out):
        if row["key"].startswith("listed"):
            assert (row["thumb"], row["match_thumb"], row["drawn"]) == (None, None, "hidden"), row["key"]
    everything = b"".join(path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()) + shown.encode()
    for name in IMAGES:
        if name.startswith("listed"):
            made = thumbnail(IMAGES[name])
            assert made is not None
            for drawn in (made, blurred(made)):
                assert drawn not in everything and base64_of(drawn).encode() not in everything


def test_listed_images_are_not_drawn_and_unsafe_ones_are_blurred(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(setup, out)
    assert {row["key"]: row["dropped_by"] for row in decisions(out)} == DROPPED
    report = (out / "report.html").read_text()
    check_listed(out, report)
    found = {row["key"]: row for row in thumbs(out)}
    assert found.keys() == IMAGES.keys()
    for name in ("plain", "plain_small"):
        assert found[name]["thumb"] == thumbnail(IMAGES[name]) and base64_of(found[name]["thumb"]) in report
    for name in ("red", "red_small", "red_leaked"):
        clear = thumbnail(IMAGES[name])
        assert clear is not None and detail(clear) > 50 and base64_of(clear) not in report
        assert detail(found[name]["thumb"]) < 12 and base64_of(found[name]["thumb"]) in report
        assert Image.open(io.BytesIO(found[name]["thumb"])).size == Image.open(io.BytesIO(clear)).size
    assert detail(found["red_leaked"]["match_thumb"]) < 12


def test_unsafe_images_are_drawn_where_the_output_asks_for_it(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(setup, out)
    run_job(Setup(setup.recipe, setup.inputs, ("output.show_nsfw=true",)), out)
    found = {row["key"]: row for row in thumbs(out)}
    for name in ("red", "red_small", "red_leaked"):
        assert found[name]["thumb"] == thumbnail(IMAGES[name])
    assert detail(found["red_leaked"]["match_thumb"]) > 50
    check_listed(out, (out / "report.html").read_text())
    run_job(setup, out)
    assert all(detail(row["thumb"]) < 12 for row in thumbs(out) if row["key"].startswith("red"))


def test_a_record_of_which_another_filter_drops_the_text_is_hidden_too(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(Setup(filled(CAPTIONED, tmp_path), [tar_of(["listed", "red"], "short", tmp_path / "1.tar")]), out)
    rows = {row["key"]: row for row in decisions(out) if row["text_no"] == 0}
    assert {row["dropped_by"] for row in rows.values()} == {"caption_words"}
    assert "blocklist" in rows["listed"]["failed"] and "nsfw" in rows["red"]["failed"]
    assert {row["category"] for row in thumbs(out)} == {"caption_words", "captions", "blocklist", "nsfw"}
    check_listed(out, (out / "report.html").read_text())
    assert all(detail(row["thumb"]) < 12 for row in thumbs(out) if row["key"] == "red")


def test_what_was_hidden_stays_so_when_input_is_added(setup: Setup, tmp_path: Path) -> None:
    second = make_tar(tmp_path / "1.tar", [("x.jpg", jpeg(11)), ("x.txt", b"a thing of sorts")])
    out, whole = tmp_path / "out", tmp_path / "whole"
    run_job(setup, out)
    run_job(Setup(setup.recipe, [second], into="add"), out)
    run_job(Setup(setup.recipe, [*setup.inputs, second]), whole)
    assert thumbs(out) == thumbs(whole)
    check_listed(out, (out / "report.html").read_text())


def test_a_dry_run_draws_no_more(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(setup.recipe)
    html = tmp_path / "dry" / "gallery.html"
    html.parent.mkdir()
    done = CliRunner().invoke(main, ["dry-run", str(tmp_path / "recipe.yaml"), str(setup.inputs[0]), "--html", str(html)])
    assert done.exit_code == 0, done.output
    text = html.read_text()
    clear = {name: thumbnail(data) or b"" for name, data in IMAGES.items()}
    assert {name for name, data in clear.items() if base64_of(data) in text} == {"plain", "plain_small"}
    assert {name for name, data in clear.items() if base64_of(blurred(data)) in text} == {"red", "red_small", "red_leaked"}
