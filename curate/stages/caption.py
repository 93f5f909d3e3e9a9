"""Synthetic captions, reproducible for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.core.contracts import IMAGE_ROWS, Batch, ModelKind, Needs, Precision, Stage, setting
from curate.core.facts import Fact
from curate.stages.caption_faults import FaultRules
from curate.stages.pixels import pictures_of
from curate.stages.text import mix

if TYPE_CHECKING:
    from curate.models.protocols import Caption, Captioner, Floats, Pixels, Sampling


def _judged(default: Any, doc: str) -> Any:
    """Declare a setting of what a fault is: it changes verdicts, and no fact."""
    return field(default=default, metadata={"doc": doc, "setting": True, "identity": False})


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
    repeated_share: float | None = _judged(0.4, "a loop: more of its words repeat a pair of words that stood there before")
    phrase_run: int = _judged(3, "a loop: 1 or 2 words so often in a row, or a longer phrase twice; 0: not asked")
    compression: float | None = _judged(2.4, "a loop: zlib makes the text more than so many times smaller")
    prompt: str = _judged("a picture of", "what no caption may begin with: the captioner's prompt; an empty text: not asked")
    addresses: Literal["drop", "keep"] = _judged("drop", "captions with a web or mail address")
    cut: Literal["drop", "keep"] = _judged("drop", "captions that end at max_tokens in the middle of a sentence")

    version: ClassVar[int] = 2
    name: ClassVar[str] = "caption"
    cost: ClassVar[float] = 4e-2
    needs: ClassVar[Needs] = Needs(gpus=1, models=True)
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("captions", pa.list_(pa.string()), "image", "synthetic texts of the image, as the captioner wrote them"),
        Fact("captions_cut", pa.list_(pa.bool_()), "image", "whether each of them ended at the longest length; null: not told"),
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
        self._check_faults()

    def _check_faults(self) -> None:
        if self.repeated_share is not None and not 0 < self.repeated_share <= 1:
            raise ValueError(f"repeated_share {self.repeated_share} is not above 0 and at most 1")
        if self.phrase_run < 0 or self.phrase_run == 1:
            raise ValueError(f"phrase_run {self.phrase_run} is not 2 or more, nor 0")
        if self.compression is not None and not self.compression > 1:
            raise ValueError(f"compression {self.compression} is not above 1, which any ordinary text reaches")

    def described(self) -> dict[str, Any]:
        """Return the settings as JSON values, those of faults only where they are set: older recipes stay the same."""
        told = {item.name: getattr(self, item.name) for item in fields(self)}
        later = {item.name: item.default for item in fields(self) if not item.metadata.get("identity", True)}
        return {name: value for name, value in told.items() if name not in later or value != later[name]}

    def faults(self, captions: Sequence[str | None], cut: Sequence[bool | None]) -> list[str | None]:
        """Return the name of each caption's fault, or None; `cut` is whether each ended at the longest length."""
        rules = FaultRules(
            self.repeated_share, self.phrase_run, self.compression, self.prompt, self.addresses == "drop", self.cut == "drop"
        )
        return [rules.fault(caption, cut=short) for caption, short in zip(captions, cut, strict=True)]

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with captions (list<string>) and captions_cut (list<bool>) appended; null where there is no picture.

        Raises ModelError.
        """
        captioner = self._load()
        pictures, rows = pictures_of(batch, captioner.side)
        images = batch["sha256"].take(pa.array(rows)).to_pylist()
        written = _written(captioner, pictures, self._draws(images)) if images else []
        texts, cuts = ([[one[which] for one in several] for several in written] for which in (0, 1))
        return self.answer(batch, rows.tolist(), texts, cuts)

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


def _written(captioner: Captioner, pictures: Pixels, draws: Floats) -> Sequence[Sequence[Caption | tuple[str, None]]]:
    """Return captions with whether each was cut off, or None where the captioner does not tell."""
    from curate.models.protocols import CutTelling

    if isinstance(captioner, CutTelling):
        return captioner.told_captions(pictures, draws)
    return [[(text, None) for text in several] for several in captioner.captions(pictures, draws)]
