"""Protocols of models, and calls in blocks of a fixed number of rows, so that no result depends on other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from curate.core.contracts import Precision

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MODEL_ROWS = 16
"""Rows of every call into a model: the last bits of scores depend on the batch size, so there is only one."""


class Embedder(Protocol):
    """Turns pictures into vectors; their dot product is the similarity of the pictures."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, dim], each row of length 1, of RGB uint8 [n, 256, 256, 3]."""


class TextEmbedder(Embedder, Protocol):
    """An embedder of pictures and texts in one space."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return float32 [n, dim], each row of length 1."""


@dataclass(frozen=True)
class Sampling:
    """How captions are drawn: nucleus sampling (Holtzman et al. 2020), with CTRL's repetition penalty."""

    top_p: float = 0.9
    repetition_penalty: float = 1.1
    min_tokens: int = 5
    max_tokens: int = 20
    top_k: int = 50


@dataclass(frozen=True)
class Compute:
    """How a large model runs: images per call on a GPU, and the precision of its arithmetic."""

    batch: int = 128
    precision: Precision = "bfloat16"


class Captioner(Protocol):
    """Writes captions by nucleus sampling (Holtzman et al. 2020)."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    @property
    def side(self) -> int:
        """Pixels of a side of the square pictures that it reads: the whole image, squashed."""

    def captions(self, pictures: Pixels, draws: Floats) -> list[list[str]]:
        """Return k captions of each picture, RGB uint8 [n, side, side, 3].

        `draws`, float32 [n, k, tokens] uniform in [0, 1), holds the random number that picks each token by the inverse of
        the cumulated probabilities, largest first. A caption depends on its picture and its draws and on nothing else.
        """


class Caption(NamedTuple):
    """A caption, and whether it ended at the longest length, without the model's token for the end."""

    text: str
    cut: bool


@runtime_checkable
class CutTelling(Protocol):
    """What a captioner may have, too: then captions that were cut off in mid-sentence are told from others."""

    def told_captions(self, pictures: Pixels, draws: Floats) -> list[list[Caption]]:
        """Return what `Captioner.captions` returns, each with whether it was cut off."""


class Matcher(Protocol):
    """Returns the probability that a text matches a picture."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    @property
    def side(self) -> int:
        """Pixels of a side of the square pictures that it reads: the whole image, squashed."""

    def reads(self, text: str) -> bool:
        """Return whether anything of a text is left after the model's cleaning; otherwise it must not be matched."""

    def match(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(match), 0 to 1, of every text of each picture, RGB uint8 [n, side, side, 3].

        A picture is encoded once, for any number of texts. A score depends on its picture and text and on nothing else.
        """


class Classifier(Protocol):
    """Gives each picture a probability."""

    @property
    def name(self) -> str:
        """The spec that loads it."""

    def scores(self, pixels: Pixels) -> Floats:
        """Return float32 [n], 0 to 1, of RGB uint8 [n, 256, 256, 3]."""


def in_blocks(pixels: Pixels, call: Callable[[Pixels], Floats], width: int) -> Floats:
    """Return float32 [n, width]: `call` on blocks of exactly MODEL_ROWS pictures, the last one padded with black."""
    out = np.empty((len(pixels), width), np.float32)
    for start in range(0, len(pixels), MODEL_ROWS):
        block = pixels[start : start + MODEL_ROWS]
        rows = len(block)
        if rows < MODEL_ROWS:
            block = np.concatenate([block, np.zeros((MODEL_ROWS - rows, *block.shape[1:]), np.uint8)])
        out[start : start + rows] = call(block).reshape(MODEL_ROWS, width)[:rows]
    return out


def unit(vectors: Floats) -> Floats:
    """Return float32 [n, d] with each row scaled to length 1; a row of zeros stays one."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    scaled: Floats = (vectors / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)
    return scaled
