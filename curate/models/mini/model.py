"""The mini models: small real ones, for demonstrations and tests without a download.

Their weights are the package curate-mini-models (tests/mini-models), for non-commercial research and not for production: its
MODEL_CARD.md describes their training and quality. All read the same frozen features (curate.models.mini.features);
`curate train-mini` makes the weights again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.models.mini.captioner import MiniCaptioner
from curate.models.mini.features import (
    SIDE,
    Language,
    Vision,
    cleaned,
    in_picture_blocks,
    load_language,
    load_vision,
    pooled_maps,
    pooled_states,
    weights_folder,
)
from curate.models.mini.network import Arrays, read_weights
from curate.models.protocols import Floats, Pixels, unit

__all__ = ["FILE", "KIND", "MiniCaptioner", "MiniEmbedder", "MiniMatcher", "Space"]

FILE = "mini-matcher.safetensors"
KIND = "mini-matcher"

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """The space of pictures and texts: canonical correlation in closed form (see train_matcher), and P(match) in it.

    A row is projected alone and in float64: in a product of many rows the last bits would change with their number.
    """

    arrays: Arrays

    @classmethod
    def load(cls, folder: Path | None = None) -> Space:
        """Read the weights in `folder`, or those of curate-mini-models. Raises ModelError."""
        arrays, _ = read_weights((folder or weights_folder()) / FILE, KIND)
        return cls({name: value.astype(np.float64) for name, value in arrays.items()})

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.arrays["image.matrix"])

    def project(self, kind: str, features: Floats) -> Doubles:
        """Return float64 [n, dim], each row of length 1, of pooled features [n, width]; `kind` is "image" or "text"."""
        mean, matrix = self.arrays[f"{kind}.mean"], self.arrays[f"{kind}.matrix"]
        out: Doubles = np.array([matrix @ (row - mean) for row in features]).reshape(-1, self.dim)
        out /= np.maximum(np.sqrt((out * out).sum(axis=1, keepdims=True)), 1e-12)
        return out

    def evidence(self, image: Doubles, text: Doubles) -> tuple[float, float]:
        """Return how far the cosine of two vectors is above that of others, in standard deviations.

        Above the text's cosines to the pictures of the training set, and above the picture's to its texts (like the z- and
        t-norm of speaker verification, Auckenthaler et al. 2000): some texts are close to every picture.
        """
        cosine = float(image @ text)
        return self._above(cosine, "image", text), self._above(cosine, "text", image)

    def chance(self, image: Doubles, text: Doubles) -> float:
        """Return P(match), 0 to 1."""
        return float(self.chances(np.array([self.evidence(image, text)]))[0])

    def chances(self, evidence: Doubles) -> Doubles:
        """Return P(match) of pairs, float64 [n], 0 to 1, from their evidence [n, 2]."""
        by_text, by_image, bias = self.arrays["logistic"].tolist()
        chances: Doubles = 1 / (1 + np.exp(-(by_text * evidence[:, 0] + by_image * evidence[:, 1] + bias)))
        return chances

    def _above(self, cosine: float, others: str, vector: Doubles) -> float:
        center, spread = self.arrays[f"{others}.center"], self.arrays[f"{others}.spread"]
        deviation = float(np.sqrt(((spread @ vector) ** 2).sum()))
        return (cosine - float(center @ vector)) / max(deviation, 1e-6)


@dataclass(frozen=True)
class MiniEmbedder:
    """Pictures and texts in one space."""

    vision: Vision = field(repr=False)
    language: Language = field(repr=False)
    space: Space = field(repr=False)
    name: str = "mini"

    @classmethod
    def load(cls, folder: Path | None = None) -> MiniEmbedder:
        """Read the weights in `folder`, or those of curate-mini-models. Raises ModelError, ImportError for a package."""
        return cls(load_vision(), load_language(), Space.load(folder))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.space.dim

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1, of RGB uint8 [n, 256, 256, 3]."""
        return unit(_seen(self.vision, self.space, _small(pixels)).astype(np.float32))

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return float32 [n, dim], each row of length 1."""
        return unit(_read(self.language, self.space, texts).astype(np.float32))


@dataclass(frozen=True)
class MiniMatcher:
    """P(match) of a picture and a text, calibrated for the share of mismatches in curate.models.mini.train_matcher."""

    vision: Vision = field(repr=False)
    language: Language = field(repr=False)
    space: Space = field(repr=False)
    name: str = "mini"
    side: int = SIDE

    @classmethod
    def load(cls, folder: Path | None = None) -> MiniMatcher:
        """Read the weights in `folder`, or those of curate-mini-models. Raises ModelError, ImportError for a package."""
        return cls(load_vision(), load_language(), Space.load(folder))

    def reads(self, text: str) -> bool:
        """Return whether a text has a word."""
        return bool(cleaned(text))

    def match(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(match), 0 to 1, of every text of each picture, RGB uint8 [n, SIDE, SIDE, 3]."""
        images = _seen(self.vision, self.space, pictures)
        return [
            [self.space.chance(image, text) for text in _read(self.language, self.space, several)]
            for image, several in zip(images, texts, strict=True)
        ]


def _seen(vision: Vision, space: Space, pictures: Pixels) -> Doubles:
    """Return float64 [n, dim], unit rows, of pictures, RGB uint8 [n, SIDE, SIDE, 3]."""
    blocks = [space.project("image", pooled_maps(vision.maps(block))[:rows]) for _, rows, block in in_picture_blocks(pictures)]
    return np.concatenate([np.empty((0, space.dim)), *blocks])


def _read(language: Language, space: Space, texts: Sequence[str]) -> Doubles:
    """Return float64 [n, dim], unit rows, of texts."""
    return space.project("text", np.array([pooled_states(language.states(text)) for text in texts], np.float32))


def _small(pixels: Pixels) -> Pixels:
    """Return pictures of any size as uint8 [n, SIDE, SIDE, 3]."""
    from PIL import Image

    out = np.empty((len(pixels), SIDE, SIDE, 3), np.uint8)
    for row, picture in enumerate(pixels):
        out[row] = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return out
