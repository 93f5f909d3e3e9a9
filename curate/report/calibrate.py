"""Measures a threshold for near-duplicates of evaluation images: recall per edit, and false positives.

The right cosine depends on the embedder and on the evaluation set (the larger the set, the closer is its nearest image to any
other). So copies of the set's images are made with common edits, which should be found, and unrelated candidates are compared
with the whole set, which should not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.core.errors import InputError
from curate.stages.evalsets import EvalSetRef, Member, decoded, members, signatures
from curate.stages.nearest import nearest_vectors
from curate.stages.pixels import pixels_of

if TYPE_CHECKING:
    from PIL import Image

    from curate.models.protocols import Floats

_QUALITY = 85  # JPEG quality of every edit except `jpeg q30`
_Z = 1.959964  # two-sided 95%


@dataclass(frozen=True)
class Recall:
    """The copies made by one edit: how many reach the threshold, and the lowest cosine of all."""

    edit: str
    found: int
    copies: int
    lowest: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, its recall per edit, and its false positives: `dropped` of `candidates` unrelated images."""

    threshold: float
    recalls: tuple[Recall, ...]
    dropped: int
    candidates: int
    leave_one_out: bool

    @property
    def rate(self) -> float:
        """Share of the unrelated candidates that the threshold drops."""
        return self.dropped / self.candidates

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the rate."""
        return wilson(self.dropped, self.candidates)


def calibrate(sets: Sequence[str], candidates: Sequence[str], rate: float, embedder: str, cache: Path) -> Calibration:
    """Return the smallest threshold that drops at most `rate` of the images in `candidates` (folders or tars).

    Without candidates, each image of the sets is compared with all others (leave-one-out); duplicates within the sets then
    count as false positives. Raises InputError if there is nothing to measure; ModelError.
    """
    if not 0 <= rate < 1:
        raise InputError(f"rate {rate} must be at least 0 and below 1")
    refs = tuple(signatures(path, "embedding", embedder, cache) for path in sets)
    if not refs:
        raise InputError("calibration needs at least one evaluation set")
    unrelated = _unrelated(candidates, refs, embedder) if candidates else _leave_one_out(refs)
    if not len(unrelated):
        raise InputError("calibration needs candidates, or an evaluation set of at least two images")
    threshold = pick(unrelated, rate)
    recalls = []
    for edit, cosines in _copies(sets, refs, embedder).items():
        lowest = float(cosines.min()) if len(cosines) else math.nan
        recalls.append(Recall(edit, int((cosines >= np.float32(threshold)).sum()), len(cosines), lowest))
    dropped = int((unrelated >= np.float32(threshold)).sum())
    return Calibration(threshold, tuple(recalls), dropped, len(unrelated), leave_one_out=not candidates)


def pick(unrelated: Floats, rate: float) -> float:
    """Return the smallest threshold, to four decimals, that at most a share `rate` of `unrelated` (float32 [n]) reaches.

    >>> pick(np.array([0.5, 0.6, 0.7, 0.8], np.float32), 0.25)
    0.7001
    """
    allowed = math.floor(rate * len(unrelated) + 1e-9)
    highest = float(np.sort(unrelated)[::-1][allowed])  # the highest that must stay below
    threshold = math.floor(highest * 1e4) / 1e4
    while np.float32(threshold) <= np.float32(highest):
        threshold = round(threshold + 1e-4, 4)
    return threshold


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a rate, for `hits` in `trials` (at least one).

    >>> [round(bound, 4) for bound in wilson(0, 1000)]
    [0.0, 0.0038]
    """
    share, squared = hits / trials, _Z * _Z
    centre = share + squared / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials * trials))
    scale = 1 + squared / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def table(calibration: Calibration) -> list[tuple[str, str, str]]:
    """Format the result as rows of text: what, count, share or lowest cosine."""
    low, high = calibration.interval
    what = "set images, each against the others" if calibration.leave_one_out else "unrelated candidates"
    rows = [("threshold", f"{calibration.threshold:.4f}", "")]
    rows += [
        (f"found: {recall.edit}", f"{recall.found}/{recall.copies}", f"lowest cosine {recall.lowest:.4f}")
        for recall in calibration.recalls
    ]
    counted = f"{calibration.dropped}/{calibration.candidates}"
    return [*rows, (f"dropped: {what}", counted, f"{calibration.rate:.3%} ({low:.3%} to {high:.3%})")]


# Edits ---------------------------------------------------------------------------------------------------------------


def _half(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


def _brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, round(value * 1.25)))


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _small_text(image: Image.Image) -> Image.Image:
    from PIL import ImageDraw, ImageFont

    copy = image.copy()
    font = ImageFont.load_default(max(10, image.height // 20))
    ImageDraw.Draw(copy).text((image.width // 20, image.height * 9 // 10), "example.com", "white", font)
    return copy


def _border(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.expand(image, max(1, min(image.size) // 20), "white")


def _flip(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.mirror(image)


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg q30": lambda image: image,
    "half size": _half,
    "90% crop": _crop,
    "brightness 1.25": _brighter,
    "grey": _grey,
    "small text": _small_text,
    "border": _border,
    "flip": _flip,
}
"""Common edits. A flipped picture counts as a different one, for the signature and in ALIGN; its recall is shown anyway."""


def edited(image: Member, edit: str) -> Member | None:
    """Return a copy of an image with one of EDITS applied, as JPEG; None if Pillow cannot read it."""
    from PIL import Image

    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image.data)) as opened:
            copy = EDITS[edit](opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    copy.save(out, "JPEG", quality=30 if edit == "jpeg q30" else _QUALITY)
    return Member(image.name, out.getvalue())


# Cosines -------------------------------------------------------------------------------------------------------------


def _cosines(images: Iterator[Member], refs: tuple[EvalSetRef, ...], embedder: str) -> Floats:
    """Return the largest cosine to the sets for every image that decodes, float32 [n]."""
    from curate.models import load_embedder

    parts = [np.empty(0, np.float32)]
    for _, batch in decoded(images):
        pixels, rows = pixels_of(batch)
        if len(rows):
            parts.append(nearest_vectors(load_embedder(embedder).embed(pixels), refs)[0])
    return np.concatenate(parts)


def _unrelated(candidates: Sequence[str], refs: tuple[EvalSetRef, ...], embedder: str) -> Floats:
    return _cosines((image for path in candidates for image in members(path)), refs, embedder)


def _copies(sets: Sequence[str], refs: tuple[EvalSetRef, ...], embedder: str) -> dict[str, Floats]:
    found = {}
    for edit in EDITS:
        copies = (edited(image, edit) for path in sets for image in members(path))
        found[edit] = _cosines((copy for copy in copies if copy is not None), refs, embedder)
    return found


def _leave_one_out(refs: tuple[EvalSetRef, ...]) -> Floats:
    """Return the largest cosine to all other images for every image of the sets, float32 [n]."""
    vectors = np.concatenate([np.load(Path(ref.folder) / "signatures.npy", mmap_mode="r") for ref in refs])
    best = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 256):
        cosines: npt.NDArray[np.float32] = vectors[start : start + 256] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, rows + start] = -1
        best[start : start + len(cosines)] = cosines.max(axis=1)
    return best if len(vectors) > 1 else best[:0]
