"""Decoding with Pillow: every format but JPEG, with a diagnosis of damaged files."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from curate.images.gif import count_frames
from curate.images.header import FORMATS, MAX_DECODED_BYTES
from curate.images.picture import NOT_DECODABLE, DecodeRequest, Picture, Pixels, damage_named, decoding_of

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

PILLOW_ERRORS = (
    OSError,  # truncated data, broken streams; UnidentifiedImageError is one
    SyntaxError,  # how plugins say "not mine" and "broken chunk"
    ValueError,  # includes UnicodeDecodeError
    TypeError,  # directory entries of an unexpected type
    KeyError,  # unknown modes and tags
    IndexError,
    EOFError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    MemoryError,  # sizes that only appear while decoding
    struct.error,
    zlib.error,
)
"""The exceptions of Pillow's plugins for broken files (found with Pillow's own adversarial files and by mutation)."""

_PLUGINS = {name: (name.upper(),) for name in FORMATS} | {"jpeg": ("JPEG", "MPO")}

_MESSAGES = (
    ("truncated", "truncated"),
    ("Truncated", "truncated"),
    ("not processed", "truncated"),
    ("broken PNG", "bad_structure"),
    ("EXIF", "bad_metadata"),
    ("etadata", "bad_metadata"),
    ("APNG", "bad_metadata"),
    ("MAX_TEXT", "bad_metadata"),
    ("stream", "bad_entropy_data"),
    ("decoder error", "bad_entropy_data"),
    ("decod", "bad_entropy_data"),
    ("tag", "bad_metadata"),
    ("codec can't", "bad_metadata"),
    ("codec", "bad_entropy_data"),
    ("cannot identify", "bad_structure"),
    ("TIFF", "bad_entropy_data"),
    ("tiff", "bad_entropy_data"),
    ("Fax", "bad_entropy_data"),
)

_TURNED = ("tiff",)
"""Formats whose pictures Pillow turns upright while it reads them."""

_RGB_BYTES = 4  # of a pixel in Pillow's memory

_settings_lock = threading.Lock()


@contextmanager
def _pillow(pixels: int, *, lenient: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Set Pillow's two process-wide settings for one decode and restore them; yield the list of warnings caught so far.

    Pillow's bomb check, which raises above twice its setting, backs up the check of the header: a plugin may read another
    size than our parser, and some allocate as soon as they have read it.
    """
    from PIL import Image, ImageFile

    with _settings_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = pixels // 2, lenient
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode_pillow(request: DecodeRequest) -> Picture:
    """Decode strictly; on an error name it and decode leniently."""
    names = _CHECKS.get(request.format, _no_faults)(request.data)
    with _pillow(request.pixels, lenient=False) as caught, _libtiff(request.format) as printed:
        try:
            pixels = _loaded(request)
        except PILLOW_ERRORS as error:
            pixels, strict = None, False
            if not names or "cannot identify" not in str(error):
                names.add(damage_named(str(error), _MESSAGES))
        else:
            strict = True
    names |= {damage_named(str(warning.message), _MESSAGES) for warning in caught if issubclass(warning.category, UserWarning)}
    names |= {damage_named(line, _MESSAGES) for line in printed}
    if not strict:
        with _pillow(request.pixels, lenient=True), _libtiff(request.format):
            try:
                pixels = _loaded(request)
            except PILLOW_ERRORS:
                return Picture(None, NOT_DECODABLE)
    if pixels is None:
        return Picture(None, "too_many_pixels")
    if "truncated" in names:
        names.discard("missing_eoi")
    return Picture(pixels, decoding_of(names))


@contextmanager
def _libtiff(form: str) -> Iterator[list[str]]:
    """Collect libtiff's warnings, which go to the standard error of the process. Does nothing for other formats."""
    lines: list[str] = []
    if form != "tiff":
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines += file.read(1 << 16).decode(errors="replace").splitlines()


def _png_faults(data: bytes) -> set[str]:
    """Check the checksums of chunks, which Pillow skips for image data, and that the last chunk is present."""
    faults: set[str] = set()
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            return faults | {"truncated" if name == b"IDAT" else "missing_eoi"}
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            faults.add("bad_metadata" if name[:1].islower() else "bad_entropy_data")  # lower case: an optional chunk
        if name == b"IEND":
            return faults
        at = end + 4
    return faults | {"missing_eoi"}


def _gif_faults(data: bytes) -> set[str]:
    return set() if count_frames(data, 1 << 30)[1] else {"missing_eoi"}


def _webp_faults(data: bytes) -> set[str]:
    return {"truncated"} if struct.unpack_from("<I", data, 4)[0] + 8 > len(data) + 1 else set()


def _no_faults(data: bytes) -> set[str]:
    return set()


_CHECKS: dict[str, Callable[[bytes], set[str]]] = {"png": _png_faults, "gif": _gif_faults, "webp": _webp_faults}
"""Finds damage that Pillow ignores: a missing end, or a file shorter than it claims."""


def _loaded(request: DecodeRequest) -> Pixels | None:
    """Return the first frame; None if it is larger than its header claims. Raises PILLOW_ERRORS."""
    from PIL import Image

    try:
        with Image.open(BytesIO(request.data), formats=_PLUGINS[request.format]) as image:
            if image.width * image.height * len(image.getbands()) > request.max_bytes:
                return None
            if request.format == "jpeg" and request.side:
                image.draft(request.mode, (request.side, request.side))
            image.load()
            across, down = (max(1, size // request.side) if request.side else 1 for size in image.size)
            return _flattened(image, request.mode, (across, down))
    except Image.DecompressionBombError:
        return None


def of_original(request: DecodeRequest, function: Callable[[Image.Image], T]) -> T | None:
    """Return `function` of the image as Pillow opens it: first frame, full size, palette and alpha as they are.

    A damaged file is opened leniently; None if it does not decode, or to more bytes than `request` allows. The request's
    `side` is not used, and `rgb` says that the function converts to RGB, which then is what counts.
    """
    for lenient in (False, True):
        with _pillow(request.pixels, lenient=lenient), _libtiff(request.format), suppress(*PILLOW_ERRORS):
            return _applied(request, function)
    return None


def _applied(request: DecodeRequest, function: Callable[[Image.Image], T]) -> T | None:
    from PIL import Image

    try:
        with Image.open(BytesIO(request.data), formats=_PLUGINS[request.format]) as image:
            depth = max(len(image.getbands()), _RGB_BYTES if request.rgb else 1)
            return None if image.width * image.height * depth > request.max_bytes else function(image)
    except Image.DecompressionBombError:
        return None


def exif_orientation(data: bytes, form: str) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is absent, unreadable, or applied by the decoder."""
    return 1 if form in _TURNED else _orientation(data, form)


def turned_by_decoder(data: bytes, form: str) -> int:
    """Return the EXIF orientation that the decoder applies, 1 to 8: above 4, its picture has the header's sides exchanged."""
    return _orientation(data, form) if form in _TURNED else 1


def _orientation(data: bytes, form: str) -> int:
    from PIL import Image

    with _pillow(MAX_DECODED_BYTES // 2, lenient=True):
        try:
            with Image.open(BytesIO(data), formats=_PLUGINS[form]) as image:
                found = image.getexif().get(0x0112, 1)
        except (*PILLOW_ERRORS, Image.DecompressionBombError):
            return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _flattened(image: Image.Image, mode: str, factors: tuple[int, int]) -> Pixels:
    """Return `image` in `mode` without alpha, each side reduced by its factor; in bands, to save memory."""
    low, high = _range(image)
    rows = max(factors[1], (1 << 22) // image.width // factors[1] * factors[1])
    bands = []
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        flat = _plain(band, mode, low, high)
        bands.append(np.asarray(flat.reduce(factors) if factors != (1, 1) else flat))
    return np.concatenate(bands) if len(bands) > 1 else np.array(bands[0])


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the sample values that map to black and white in modes wider than a byte."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return 0.0, 255.0
    values = np.asarray(image, np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 255.0)
    if low >= 0 and high <= 255 and image.mode == "I":
        return 0.0, 255.0
    return (0.0, 65535.0) if low >= 0 and image.mode == "I" and high <= 65535 else (low, max(high, low + 1e-6))


def _plain(image: Image.Image, mode: str, low: float, high: float) -> Image.Image:
    """Return `image` in `mode`: wide samples scaled to a byte, alpha composited on white."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
        scaled = np.clip((values - low) * (255.0 / (high - low)), 0, 255)
        return Image.fromarray(np.round(scaled).astype(np.uint8)).convert(mode)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert(mode)
    if image.mode in ("RGB", "L", "1"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)
