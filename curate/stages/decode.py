"""One decode per record: whether the image decodes and is whole, its perceptual hash, and the pixels for models.

JPEG goes through libjpeg-turbo (simplejpeg) at a reduced scale, with every warning an error; where one is raised the
file is repaired in memory to learn the name of what is wrong, and decoded again without strictness. Everything else
goes through Pillow. What is damaged still yields pixels where any can be had: whether to keep it is for a filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from curate.core import watchdog
from curate.core.contracts import Batch, Stage
from curate.core.facts import Fact
from curate.images.decode import decode_picture
from curate.images.header import MAX_DECODED_BYTES
from curate.images.jpeg import decode_intact_jpeg
from curate.images.phash import Matrix, hash_bits, spectrum
from curate.images.picture import HASH_SIDE, NOT_DECODABLE, PIXELS_SIDE, DecodeRequest, Picture, Pixels
from curate.stages.pixels import pixel_column, square_and_grey


@dataclass(frozen=True)
class DecodeStage(Stage):
    """Provides decoding and phash from one decode of `image`; view "rgb" also gives the transient column `pixels`.

    `pixels`: fixed_size_binary(256 * 256 * 3), RGB, the whole picture as stored (EXIF orientation is not applied, as
    the models' own loaders do not) squashed to a square; null where it does not decode. The two views decode at
    different scales, so their hashes can differ by a few bits: one recipe uses one view.
    """

    view: Literal["grey", "rgb"] = "grey"
    max_bytes: int = MAX_DECODED_BYTES

    name: ClassVar[str] = "decode"
    cost: ClassVar[float] = 2e-3
    decodes: ClassVar[bool] = True
    facts: ClassVar[tuple[Fact, ...]] = (
        Fact("decoding", pa.string(), "image", "'ok', 'damaged: ...' with what is wrong, or why it does not decode"),
        Fact("phash", pa.uint64(), "image", "64-bit perceptual hash (DCT), as imagehash.phash", shown=True),
    )
    reads = ("row", "image", "header", "format", "width", "height")

    @property
    def transient(self) -> tuple[str, ...]:
        """Name the views that come with the facts."""
        return ("pixels",) if self.view == "rgb" else ()

    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with decoding (string), phash (uint64) and, for view "rgb", pixels appended."""
        rows = len(batch)
        spectra = np.zeros((rows, 8, 8), np.float64)
        pixels = np.zeros((rows, PIXELS_SIDE, PIXELS_SIDE, 3), np.uint8) if self.view == "rgb" else None
        verdicts: list[str] = []
        seen = np.zeros(rows, np.bool_)
        columns = (batch.column(name) for name in ("row", "image", "header", "format"))
        for at, (row, data, header, form) in enumerate(zip(*columns, strict=True)):
            reason = header.as_py()
            if reason != "ok":
                verdicts.append(reason or NOT_DECODABLE)
                continue
            with watchdog.row(row.as_py()):
                picture = self._decode(data, form.as_py())
                verdicts.append(picture.decoding)
                if picture.pixels is not None:
                    seen[at] = True
                    spectra[at] = self._views(picture.pixels, None if pixels is None else pixels[at])
        batch = batch.append_column("decoding", pa.array(verdicts, pa.string()))
        batch = batch.append_column("phash", pa.array(hash_bits(spectra), pa.uint64(), mask=~seen))
        return batch if pixels is None else batch.append_column("pixels", pixel_column(pixels, seen))

    def _decode(self, image: pa.BinaryScalar, form: str) -> Picture:
        rgb = self.view == "rgb"
        side = PIXELS_SIDE if rgb else HASH_SIDE
        if form == "jpeg":
            whole = decode_intact_jpeg(DecodeRequest(image.as_buffer(), form, rgb, side, self.max_bytes))
            if whole is not None:
                return Picture(whole, "ok")
        return decode_picture(DecodeRequest(image.as_py(), form, rgb, side, self.max_bytes))

    def _views(self, picture: Pixels, square: Pixels | None) -> Matrix:
        """Fill `square` where it is wanted, and return the spectrum of the picture's grey."""
        if square is None:
            return spectrum(picture)
        square[:], grey = square_and_grey(picture)
        return spectrum(grey)
