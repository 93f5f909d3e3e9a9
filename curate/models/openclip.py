"""Any model of open_clip as an embedder of images and texts: `open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.core.errors import ModelError
from curate.models.protocols import MODEL_ROWS, Floats, Pixels, in_blocks, unit
from curate.models.torchvision_fit import fit_torchvision


def parts(spec: str) -> tuple[str, str]:
    """Return architecture and pretrained tag or file of a spec. Raises ModelError where one is missing."""
    architecture, _, pretrained = spec.removeprefix("open_clip:").partition("/")
    if not architecture or not pretrained:
        raise ModelError(f"{spec}: write open_clip:MODEL/PRETRAINED_TAG_OR_LOCAL_FILE")
    return architecture, pretrained


def imported() -> Any:
    """Return the module open_clip. Raises ImportError naming a missing package."""
    fit_torchvision()
    import open_clip

    return open_clip


@dataclass(frozen=True)
class OpenClip:
    """An open_clip model; the whole picture is squashed to the model's size: a crop could hide a difference."""

    model: Any
    tokenizer: Any
    name: str
    dim: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    @classmethod
    def load(cls, spec: str) -> OpenClip:
        """Build and load the model. Raises ImportError naming a missing package, ModelError for a bad name or file."""
        architecture, pretrained = parts(spec)
        import torch

        open_clip = imported()
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = open_clip.create_model(architecture, pretrained=pretrained, device=device)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise ModelError(f"{spec}: {error}") from error
        settings = open_clip.get_model_preprocess_cfg(model.eval())
        size = settings.get("size", 224)
        side = size if isinstance(size, int) else size[0]
        with torch.inference_mode():
            dim = model.encode_image(torch.zeros(1, 3, side, side, device=device)).shape[1]
        tokenizer = open_clip.get_tokenizer(architecture)
        return cls(model, tokenizer, spec, int(dim), int(side), tuple(settings["mean"]), tuple(settings["std"]), device)

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1, of RGB uint8 [n, 256, 256, 3]."""
        return unit(in_blocks(pixels, self._block, self.dim))

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return float32 [n, dim], each row of length 1; the model reads a long text up to its limit."""
        import torch

        blocks = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(texts), MODEL_ROWS):
            block = [*texts[start : start + MODEL_ROWS]]
            filled = block + [""] * (MODEL_ROWS - len(block))
            with torch.inference_mode():
                found = self.model.encode_text(self.tokenizer(filled).to(self.device)).float().cpu().numpy()
            blocks.append(found[: len(block)])
        return unit(np.concatenate(blocks))

    def _block(self, pixels: Pixels) -> Floats:
        import torch
        from PIL import Image

        size = (self.side, self.side)
        resized = [Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC) for picture in pixels]
        scaled = np.stack([np.asarray(picture, np.float32) for picture in resized]) / 255
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        with torch.inference_mode():
            inputs = torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2))).to(self.device)
            vectors: Floats = self.model.encode_image(inputs).float().cpu().numpy()
        return vectors
