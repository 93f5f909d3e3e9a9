"""Thumbnails for the report."""

from __future__ import annotations

from io import BytesIO

from curate.images.reencode import Fit, upright

_SPOTS = 4  # a side, of a blurred picture


def thumbnail(data: bytes, side: int = 160) -> bytes | None:
    """Return a JPEG whose longest side is at most `side`, upright and without metadata; None if it does not decode."""
    image = upright(data, Fit("longest_side", side, only_if_bigger=True))
    if image is None:
        return None
    file = BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


def blurred(thumb: bytes) -> bytes:
    """Return a thumbnail with nothing left but 4 x 4 spots of colour, a JPEG of the same size."""
    from PIL import Image

    with Image.open(BytesIO(thumb), formats=("JPEG",)) as image:
        spots = image.convert("RGB").resize((_SPOTS, _SPOTS), Image.Resampling.BOX)
        file = BytesIO()
        spots.resize(image.size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
    return file.getvalue()
