"""Synthetic captions, reproducible for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import IMAGE_ROWS, Batch, ModelKind, Needs, Precision, Stage, setting
from curate.core.facts import Fact
from curate.stages.pixels import pictures_of
from curate.stages.text import mix

if TYPE_CHECKING:
    from curate.models.protocols import Captioner, Sampling

EMPTY, REPEATED = "empty_caption", "repeated_word"
"""Faults of a caption: it is empty, or repeats one word."""

_RUN = 3  # the same word so often in a row is a decoder that got stuck


@dataclass(frozen=True)
class CaptionStage(Stage):
    """Provides captions: `per_image` synthetic texts of every image, by nucleus sampling.

    CapFilt's captioner (Li et al. 2022, BLIP, section 3.3 and table 4: nucleus sampling with p = 0.9). The paper does not
    publish the lengths; 5 to 20 new tokens are those of the authors' demo. The random numbers come from the image's
    sha256, the number of the caption and the position of the token: the same image gets the same captions in any order,
    on any number of workers.
    """

    model: str = setting("hf:Salesforce/blip-image-captioning-large", "spec of the captioner")
    per_image: int = setting(1, "captions of each image")
    top_p: float = setting(0.9, "nucleus: the most likely tokens that hold this probability")
    top_k: int = setting(50, "the nucleus is taken of so many likeliest tokens, as in the authors' code by default; 0: of all")
    repetition_penalty: float = setting(1.1, "CTRL's penalty on tokens that stand there already")
    min_tokens: int = setting(5, "new tokens at least")
    max_tokens: int = setting(20, "new tokens at most")
    batch: int = setting(128, "images of one call into the model on a GPU; part of what decides the last bits")
    precision: Precision = setting("bfloat16", "the numbers that the model calculates with: bfloat16 or float32")
    weights: str | None = setting(None, "sha256 of the weights, where only these will do; a run records it anyway")

    name: ClassVar[str] = "caption"
    cost: ClassVar[float] = 4e-2
    needs: ClassVar[Needs] = Needs(gpus=1, models=True)
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("captions", pa.list_(pa.string()), "image", "synthetic texts of the image, as the captioner wrote them"),
    )
    reads = ("pictures", "sha256")

    def models(self) -> tuple[tuple[ModelKind, str], ...]:
        """Name the captioner."""
        return (("captioner", self.model),)

    def side(self) -> int:
        """Return the side of the pictures that the model reads. Loads it. Raises ModelError."""
        return self._load().side

    def check(self) -> None:
        """Refuse what no sampling can do; the message is shown with file and line."""
        if self.per_image < 1:
            raise ValueError(f"per_image {self.per_image} is less than 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} is negative; 0 means all tokens")
        if self.repetition_penalty < 1:
            raise ValueError(f"repetition_penalty {self.repetition_penalty} is less than 1, which would reward repetition")
        if not 0 <= self.min_tokens <= self.max_tokens <= 256 or self.max_tokens < 1:
            raise ValueError(f"min_tokens {self.min_tokens} and max_tokens {self.max_tokens} must be ordered, and 1 to 256")
        if not 1 <= self.batch <= IMAGE_ROWS:
            raise ValueError(f"batch {self.batch} is not 1 to {IMAGE_ROWS}, the images that are in memory at once")

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with captions (list<string>) appended; null where there is no picture. Raises ModelError."""
        captioner = self._load()
        pictures, rows = pictures_of(batch, captioner.side)
        images = batch["sha256"].take(pa.array(rows)).to_pylist()
        captions = captioner.captions(pictures, self._draws(images)) if images else []
        return self.answer(batch, rows.tolist(), captions)

    def _load(self) -> Captioner:
        from curate.models import Compute, load_captioner

        return load_captioner(self.model, self._sampling(), Compute(self.batch, self.precision))

    def _sampling(self) -> Sampling:
        from curate.models.protocols import Sampling

        return Sampling(self.top_p, self.repetition_penalty, self.min_tokens, self.max_tokens, self.top_k)

    def _draws(self, images: list[str]) -> npt.NDArray[np.float32]:
        """Return float32 [images, per_image, max_tokens], uniform in [0, 1): hashes of (sha256, caption, position)."""
        seeds = np.array([int(image[:16], 16) for image in images], np.uint64)
        places = np.arange(self.per_image * self.max_tokens, dtype=np.uint64).reshape(self.per_image, self.max_tokens)
        return (mix(seeds[:, None, None], places[None]) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def fault(caption: str | None) -> str | None:
    """Return what is wrong with a caption, or None.

    >>> fault(" "), fault("a dog dog dog"), fault("dog dog"), fault("a dog in a park")
    ('empty_caption', 'repeated_word', 'repeated_word', None)
    """
    words = (caption or "").split()
    if not words:
        return EMPTY
    if len(words) > 1 and len(set(words)) == 1:
        return REPEATED
    runs = (len(set(words[at : at + _RUN])) == 1 for at in range(len(words) - _RUN + 1))
    return REPEATED if any(runs) else None
