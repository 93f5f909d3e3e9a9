"""Pictures written again for trainers: upright, on white, 8 bits, sRGB, the first frame, of another size where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Literal, TypeAlias

from curate.images.decode import decode_picture
from curate.images.header import Header, read_header
from curate.images.picture import DecodeRequest
from curate.images.pillow import PILLOW_ERRORS, exif_orientation, of_original, turned_by_decoder

if TYPE_CHECKING:
    from PIL import Image

_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_ENCODERS = {"jpg": ("JPEG", 65_500), "webp": ("WEBP", 16_383), "png": ("PNG", 1 << 31)}
"""By extension: Pillow's name, and the longest side that the format can have."""

_MAX_PROFILE = 4 << 20  # bytes; those of printers have up to 3 MB
_SPACES = {"GRAY": ("L", "LA", "I", "I;16", "I;16B", "1", "F"), "CMYK": ("CMYK",), "RGB": ("RGB", "RGBA", "RGBX", "P", "PA")}
"""The modes of pictures that a profile of a colour space can describe."""

FitName: TypeAlias = Literal["longest_side", "shortest_side", "crop", "pad"]
"""What a size is of."""

IGNORED = "ignored"
"""The note `color_profile` of a picture whose profile is damaged, or is not of its kind of pixels."""


@dataclass(frozen=True)
class Fit:
    """The size of pictures: their longest or shortest side, or squares, cut out of the middle or padded with white."""

    how: FitName
    side: int
    only_if_bigger: bool  # pictures that are not larger stay as they are

    def changes(self, width: int, height: int) -> bool:
        """Return whether a picture of this size gets another one."""
        if self.only_if_bigger:
            return self._ruling(width, height) > self.side
        sides = (width, height) if self.how in ("crop", "pad") else (self._ruling(width, height),)
        return any(side != self.side for side in sides)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return the size to which the whole picture is scaled; what is cut off is none of it any more."""
        if not self.changes(width, height):
            return width, height
        scale = self.side / self._ruling(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _ruling(self, width: int, height: int) -> int:
        return max(width, height) if self.how in ("longest_side", "pad") else min(width, height)


@dataclass(frozen=True)
class Encoding:
    """How pictures are written: jpg, webp or png; the quality of the first two; their size (None = as it is)."""

    extension: str
    quality: int
    fit: Fit | None = None


@dataclass(frozen=True)
class Reencoded:
    """A file of 8-bit RGB without metadata, and what should be said of it."""

    data: bytes
    notes: Mapping[str, str] = field(default_factory=dict)


def reencode(data: bytes, how: Encoding) -> Reencoded | None:
    """Return `data` written again; None if it does not decode. Pictures larger than the format can hold are made smaller."""
    header = read_header(data)
    if header.reason != "ok" or not header.format:
        return None
    found = _decoded(data, header, how.fit)
    if found is None:
        return None
    image, notes = found
    form, longest = _ENCODERS[how.extension]
    image = _bounded(image, longest)
    image.info.clear()  # else some formats would store the profile, which has the time in it
    file = BytesIO()
    try:
        image.save(file, form, **({} if form == "PNG" else {"quality": how.quality}))
    except PILLOW_ERRORS:
        return None
    return Reencoded(file.getvalue(), notes)


def upright(data: bytes, fit: Fit) -> Image.Image | None:
    """Return a picture as RGB of some size, upright, its profile not applied; None if it does not decode."""
    header = read_header(data)
    if header.reason != "ok" or not header.format:
        return None
    image = _rgb(data, header, fit)
    return None if image is None else _turned(_fitted(image, stored_size(data, header), fit), data, header)


def stored_size(data: bytes, header: Header) -> tuple[int, int]:
    """Return width and height as the decoder gives them: of a format that it turns upright, as it is seen."""
    width, height = header.width or 1, header.height or 1
    return (height, width) if turned_by_decoder(data, header.format or "") > 4 else (width, height)


def _decoded(data: bytes, header: Header, fit: Fit | None) -> tuple[Image.Image, dict[str, str]] | None:
    """Return the picture as sRGB, upright and fitted, with notes."""
    mode, profile = of_original(DecodeRequest(data, header.format or ""), _mode_and_profile) or ("", None)
    notes: dict[str, str] = {}
    image = _inks_converted(data, header, profile) if mode == "CMYK" and profile else None
    if image is None:
        image = _rgb(data, header, fit)
        if image is not None and profile is not None:
            converted = None if mode == "CMYK" else _srgb(image, profile, mode)
            notes = {"color_profile": IGNORED} if converted is None else {}
            image = converted or image
    if image is None:
        return None
    return _turned(_fitted(image, stored_size(data, header), fit), data, header), notes


def _rgb(data: bytes, header: Header, fit: Fit | None) -> Image.Image | None:
    """Decode to RGB, at a smaller scale where the picture will be smaller."""
    from PIL import Image

    pixels = decode_picture(DecodeRequest(data, header.format or "", rgb=True, side=_least_side(data, header, fit))).pixels
    return None if pixels is None else Image.fromarray(pixels)


def _least_side(data: bytes, header: Header, fit: Fit | None) -> int | None:
    """Return the side to decode to. Only JPEG keeps the ratio of the sides then, which a cut out of the middle needs."""
    if fit is None or (fit.how == "crop" and header.format != "jpeg"):
        return None
    size = stored_size(data, header)
    scaled = fit.scaled(*size)
    return max(scaled) if max(scaled) < max(size) else None


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit | None) -> Image.Image:
    """Return a picture of `size`, decoded at that or a smaller scale, in the wanted size."""
    from PIL import Image

    if fit is None or not fit.changes(*size):
        return image
    if fit.how == "crop":
        side, left, top = min(image.size), (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
        return _resized(image.crop((left, top, left + side, top + side)), (fit.side, fit.side))
    small = _resized(image, fit.scaled(*size))
    if fit.how != "pad":
        return small
    square = Image.new("RGB", (fit.side, fit.side), (255, 255, 255))
    square.paste(small, ((fit.side - small.width) // 2, (fit.side - small.height) // 2))
    return square


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _bounded(image: Image.Image, longest: int) -> Image.Image:
    if max(image.size) <= longest:
        return image
    return _resized(image, Fit("longest_side", longest, only_if_bigger=True).scaled(*image.size))


def _turned(image: Image.Image, data: bytes, header: Header) -> Image.Image:
    from PIL import Image

    turn = _UPRIGHT.get(exif_orientation(data, header.format or ""))
    return image if turn is None else image.transpose(Image.Transpose[turn])


# Colour ------------------------------------------------------------------------------------------------------------------


def _mode_and_profile(image: Image.Image) -> tuple[str, bytes | None]:
    profile = image.info.get("icc_profile")
    return image.mode, profile if isinstance(profile, bytes) and profile else None


def _srgb(image: Image.Image, profile: bytes, mode: str) -> Image.Image | None:
    """Return `image` (RGB, or CMYK) in sRGB, given its profile and the mode of the file; None where that does not fit."""
    from PIL import ImageCms

    if len(profile) > _MAX_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if mode not in _SPACES.get(space, ()):
            return None
        given = image.convert("L") if space == "GRAY" else image
        converted = ImageCms.profileToProfile(given, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, *PILLOW_ERRORS):
        return None
    return converted


def _inks_converted(data: bytes, header: Header, profile: bytes) -> Image.Image | None:
    """Return a CMYK picture in sRGB by its profile, which is of inks, not of the RGB that they make."""

    def converted(image: Image.Image) -> Image.Image | None:
        image.load()
        return _srgb(image, profile, image.mode)

    return of_original(DecodeRequest(data, header.format or "", rgb=True, side=None), converted)
