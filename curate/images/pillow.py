"""Decoding with Pillow: every format but JPEG, and what its decoders complain of."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from curate.images.header import MAX_DECODED_BYTES, gif_frames

if TYPE_CHECKING:
    from PIL import Image
from curate.images.picture import NOT_DECODABLE, Picture, Pixels, Want, _damaged, _named

PILLOW_ERRORS = (
    OSError,  # truncated data, broken streams; UnidentifiedImageError is one
    SyntaxError,  # how plugins say "not mine" and "broken chunk"
    ValueError,  # of which UnicodeDecodeError
    TypeError,  # directories whose entries have another type than they ought to
    KeyError,  # modes and tags that are not in a table
    IndexError,
    EOFError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    MemoryError,  # sizes that only show while decoding
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise at broken files (found with its own adversarial files and by mutation)."""


_PILLOW_FORMATS: dict[str, tuple[str, ...]] = {name: (name.upper(),) for name in ("png", "webp", "gif", "bmp", "tiff", "avif")}


_PILLOW_FORMATS["jpeg"] = ("JPEG", "MPO")


_PILLOW_COMPLAINTS = (
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


_pillow_lock = threading.Lock()


@contextmanager
def _pillow(pixels: int, *, lenient: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Set Pillow's two process-wide switches for one decode and put them back; yields the warnings as they come.

    Its bomb check, an error above twice its setting, is the second line behind the header's: a plugin may read another
    size than our parser did, and some allocate as soon as they have read it.
    """
    from PIL import Image, ImageFile

    with _pillow_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = pixels // 2, lenient
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode_pillow(want: Want) -> Picture:
    """Decode strictly; on an error decode leniently and name the error."""
    names = _unended(want)
    with _pillow(want.pixels, lenient=False) as caught, _libtiff(want.format) as printed:
        try:
            pixels = _loaded(want)
        except PILLOW_ERRORS as error:
            pixels, strict = None, False
            if not names or "cannot identify" not in str(error):
                names.add(_named(str(error), _PILLOW_COMPLAINTS))
        else:
            strict = True
    names |= {_named(str(warning.message), _PILLOW_COMPLAINTS) for warning in caught if issubclass(warning.category, UserWarning)}
    names |= {_named(line, _PILLOW_COMPLAINTS) for line in printed}
    if not strict:
        with _pillow(want.pixels, lenient=True), _libtiff(want.format):
            try:
                pixels = _loaded(want)
            except PILLOW_ERRORS:
                return Picture(None, NOT_DECODABLE)
    if pixels is None:
        return Picture(None, "too_many_pixels")
    if "truncated" in names:
        names.discard("missing_eoi")
    return Picture(pixels, _damaged(names))


@contextmanager
def _libtiff(form: str) -> Iterator[list[str]]:
    """Collect what libtiff writes to the process's standard error: it has no other way to warn. No-op for the rest."""
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


def _unended(want: Want) -> set[str]:
    """Name what decoders let pass: a file without its end, or shorter than it says."""
    data = want.data
    if want.format == "png":
        return _png_faults(data)
    if want.format == "gif":
        return set() if gif_frames(data, 1 << 30)[1] else {"missing_eoi"}
    if want.format == "webp":
        return {"truncated"} if struct.unpack_from("<I", data, 4)[0] + 8 > len(data) + 1 else set()
    return set()


def _png_faults(data: bytes) -> set[str]:
    """Check the chunks' checksums, which Pillow skips for image data, and that the last chunk is there."""
    faults: set[str] = set()
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            return faults | {"truncated" if name == b"IDAT" else "missing_eoi"}
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            faults.add("bad_metadata" if name[:1].islower() else "bad_entropy_data")  # lower case: can be done without
        if name == b"IEND":
            return faults
        at = end + 4
    return faults | {"missing_eoi"}


def _loaded(want: Want) -> Pixels | None:
    """Return the first frame, or None where it is larger than its header said. Raises PILLOW_ERRORS."""
    from io import BytesIO

    from PIL import Image

    try:
        with Image.open(BytesIO(want.data), formats=_PILLOW_FORMATS[want.format]) as image:
            if image.width * image.height * len(image.getbands()) > want.max_bytes:
                return None
            if want.format == "jpeg" and want.side:
                image.draft(want.mode, (want.side, want.side))
            image.load()
            across, down = (max(1, size // want.side) if want.side else 1 for size in image.size)
            return _flattened(image, want.mode, (across, down))
    except Image.DecompressionBombError:
        return None


def exif_orientation(data: bytes, form: str) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, it cannot be read, or decoding applies it (TIFF)."""
    from io import BytesIO

    from PIL import Image

    if form == "tiff":
        return 1
    with _pillow(MAX_DECODED_BYTES // 2, lenient=True):
        try:
            with Image.open(BytesIO(data), formats=_PILLOW_FORMATS[form]) as image:
                found = image.getexif().get(0x0112, 1)
        except (*PILLOW_ERRORS, Image.DecompressionBombError):
            return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _flattened(image: Image.Image, mode: str, factors: tuple[int, int]) -> Pixels:
    """Return `image` in `mode` without alpha, each side reduced by its factor; in bands, so as not to hold it twice."""
    low, high = _range(image)
    rows = max(factors[1], (1 << 22) // image.width // factors[1] * factors[1])
    bands = []
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        flat = _plain(band, mode, low, high)
        bands.append(np.asarray(flat.reduce(factors) if factors != (1, 1) else flat))
    return np.concatenate(bands) if len(bands) > 1 else np.array(bands[0])


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the values that become black and white in modes wider than a byte."""
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
