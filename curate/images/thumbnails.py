"""Thumbnails for the report, and re-encoded JPEGs for trainers that cannot read the original format."""

from __future__ import annotations

from io import BytesIO

from curate.images.decode import decode_picture
from curate.images.header import read_header
from curate.images.picture import DecodeRequest
from curate.images.pillow import exif_orientation

_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_SPOTS = 4  # a side, of a blurred picture


def thumbnail(data: bytes, side: int = 160) -> bytes | None:
    """Return a JPEG whose longest side is at most `side`, upright and without metadata; None if it does not decode."""
    return _jpeg(data, side, 70)


def blurred(thumb: bytes) -> bytes:
    """Return a thumbnail with nothing left but 4 x 4 spots of colour, a JPEG of the same size."""
    from PIL import Image

    with Image.open(BytesIO(thumb), formats=("JPEG",)) as image:
        spots = image.convert("RGB").resize((_SPOTS, _SPOTS), Image.Resampling.BOX)
        file = BytesIO()
        spots.resize(image.size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
    return file.getvalue()


def reencode(data: bytes, longest_side: int | None, quality: int) -> bytes | None:
    """Return `data` as an upright JPEG of at most `longest_side` (None = full size); None if it does not decode."""
    return _jpeg(data, longest_side, quality)


def _jpeg(data: bytes, side: int | None, quality: int) -> bytes | None:
    from PIL import Image

    header = read_header(data)
    if header.reason != "ok" or not (header.format and header.width and header.height):
        return None
    pixels = decode_picture(DecodeRequest(data, header.format, rgb=True, side=side)).pixels
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    scale = min(1.0, side / max(header.width, header.height)) if side else 1.0
    size = max(1, round(header.width * scale)), max(1, round(header.height * scale))
    if side and image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    turn = _UPRIGHT.get(exif_orientation(data, header.format))
    upright = image if turn is None else image.transpose(Image.Transpose[turn])
    file = BytesIO()
    upright.save(file, "JPEG", quality=quality)
    return file.getvalue()
