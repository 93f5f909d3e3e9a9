"""One decode a record: does the picture decode, is it whole, what is its perceptual hash, and the pixels for models.

JPEG goes through libjpeg-turbo (simplejpeg) at a reduced scale, with every warning an error; where one is raised the
file is repaired in memory to learn the name of what is wrong, and decoded again without strictness. Everything else
goes through Pillow. What is damaged still yields pixels where any can be had: whether to keep it is for a filter.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import guard
from curate.contracts import Batch, Needs, Stage
from curate.facts import schema
from curate.stages.header import MAX_DECODED_BYTES, gif_frames, read_header

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Matrix: TypeAlias = npt.NDArray[np.float64]

PIXELS_SIDE = 256
"""Side of the squashed square pictures in the transient column `pixels`."""

HASH_SIDE = 128
"""Least shorter side from which a picture is hashed: from a 1/8 scale hashes are up to 12 bits off imagehash's."""

DAMAGES: dict[str, str] = {
    "missing_eoi": "the end marker is absent and nothing else: the picture is whole",
    "header_junk": "extraneous bytes between the markers before the image data; the picture is whole",
    "bad_metadata": "metadata (EXIF, ICC profile, text, animation control) that cannot be read; the picture is whole",
    "odd_sampling": "a JPEG whose chroma sampling the strict decoder does not know: decoded without its checks",
    "truncated": "the image data end before the picture does; the rest is grey or black",
    "extra_data": "image data left over when the picture was complete: often a flipped bit somewhere before",
    "bad_entropy_data": "compressed data that mean nothing, or a checksum that fails; part of the picture is wrong",
    "bad_structure": "markers, chunks or tables that are broken, doubled or out of order",
    "other_warning": "any other complaint of the decoder",
}
"""Every name that can stand in `damaged: a+b`, and what it means."""

NOT_DECODABLE = "not_decodable"
"""The value of `decoding` for a file with a good header from which no decoder gets a picture."""

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

_JPEG_COMPLAINTS = (
    ("Premature end of JPEG file", "missing_eoi"),
    ("premature end of data segment", "truncated"),
    ("extraneous bytes before marker", "header_junk"),
    ("bad ICC marker", "bad_metadata"),
    ("subsampling level", "odd_sampling"),
    ("Huffman code", "bad_entropy_data"),
    ("restart", "bad_entropy_data"),
    ("RST", "bad_entropy_data"),
    ("Inconsistent progression", "bad_entropy_data"),
    ("progressive", "bad_structure"),
    ("marker", "bad_structure"),
    ("table", "bad_structure"),
    ("structure", "bad_structure"),
    ("SOF", "bad_structure"),
    ("SOS", "bad_structure"),
)
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
_REPAIRS = 4

_pillow_lock = threading.Lock()


class Picture(NamedTuple):
    """A decoded picture, uint8 [height, width] (grey) or [height, width, 3] (RGB), or None; and the fact `decoding`."""

    pixels: Pixels | None
    decoding: str


@dataclass(frozen=True)
class Want:
    """What to decode: the bytes, their format, grey or RGB, and the least side wanted (None = full size)."""

    data: bytes
    format: str
    rgb: bool = False
    side: int | None = HASH_SIDE  # either side is reduced on its own: shapes are not kept
    max_bytes: int = MAX_DECODED_BYTES

    @property
    def pixels(self) -> int:
        """Return the most pixels that fit `max_bytes`, at the least that a pixel of the format takes."""
        return self.max_bytes // (2 if self.format == "gif" else 1)

    @property
    def mode(self) -> str:
        """Return Pillow's name for the pixels wanted."""
        return "RGB" if self.rgb else "L"


def grey_scale_decode(data: bytes) -> Pixels:
    """Return a JPEG as grey uint8 [height, width] at the scale that is hashed. Raises ValueError at any warning."""
    return _turbo(Want(data, "jpeg"))


def decode_picture(want: Want) -> Picture:
    """Decode whatever can be had of a file whose header is 'ok'; never raises for what is in the data."""
    return _decode_jpeg(want) if want.format == "jpeg" else _decode_pillow(want)


# JPEG ----------------------------------------------------------------------------------------------------------------


def _turbo(want: Want, *, strict: bool = True) -> Pixels:
    import simplejpeg

    side = want.side or 0
    colors = "RGB" if want.rgb else "GRAY"
    pixels = simplejpeg.decode_jpeg(want.data, colors, min_height=side, min_width=side, strict=strict)
    return np.asarray(pixels if want.rgb else pixels[:, :, 0], np.uint8)


def _turbo_whole(want: Want) -> Pixels | None:
    """Decode a JPEG of one or three colours without copying its bytes, as nearly all are; None at any complaint."""
    import simplejpeg

    try:
        colors = simplejpeg.decode_jpeg_header(want.data, strict=True)[2]
        return _turbo(want) if colors in ("Gray", "YCbCr", "RGB") else None
    except ValueError:
        return None


def _turbo_cmyk(want: Want, *, strict: bool = True) -> Pixels:
    """Decode four inks; inverted, as Adobe writes them and as Pillow takes them to be."""
    import simplejpeg
    from PIL import Image

    side = want.side or 0
    inks = simplejpeg.decode_jpeg(want.data, "CMYK", min_height=side, min_width=side, strict=strict)
    height, width = inks.shape[:2]
    image = Image.frombuffer("CMYK", (width, height), (255 - inks).tobytes(), "raw", "CMYK", 0, 1)
    return np.asarray(image.convert(want.mode))


def _decode_jpeg(want: Want) -> Picture:
    """Decode strictly; on a complaint repair what can be repaired, name it, and decode what is left leniently."""
    turbo = _turbo_cmyk if read_header(want.data).depth == 4 else _turbo
    names: set[str] = set()
    for _ in range(_REPAIRS):
        try:
            pixels = turbo(want)
        except ValueError as error:
            name, repaired = _diagnose(want.data, str(error))
            if name == "truncated":  # also what a cut-off file says once its end marker is put back
                names.discard("missing_eoi")
            names.add(name)
            if name == "odd_sampling":
                loose = _decode_pillow(want)
                return loose if loose.pixels is None else Picture(loose.pixels, _damaged(names))
            if repaired is None:
                break
            want = Want(repaired, want.format, want.rgb, want.side, want.max_bytes)
        else:
            if "missing_eoi" in names and not _scans_complete(want.data):
                names = names - {"missing_eoi"} | {"truncated"}
            return Picture(pixels, _damaged(names))
    try:
        return Picture(turbo(want, strict=False), _damaged(names))
    except ValueError:
        return Picture(None, NOT_DECODABLE)


def _damaged(names: set[str]) -> str:
    return "damaged: " + "+".join(sorted(names)) if names else "ok"


def _named(message: str, complaints: tuple[tuple[str, str], ...]) -> str:
    return next((name for words, name in complaints if words in message), "other_warning")


def _diagnose(data: bytes, message: str) -> tuple[str, bytes | None]:
    """Return the name of what libjpeg complains of, and the data without that fault where it can be mended."""
    name = _named(message, _JPEG_COMPLAINTS)
    if name == "missing_eoi":
        if data.endswith(b"\xff\xd9"):  # swallowed by a segment that is cut off
            return "truncated", None
        return name, data + b"\xff\xd9"
    if name == "header_junk":
        clean = _rebuilt(data, without=())
        if clean != data and not message.endswith(("0xd9", *(f"0xd{n}" for n in range(8)))):
            return name, clean
        return "extra_data", None
    if name == "bad_metadata":
        return name, _rebuilt(data, without=(*range(0xE1, 0xEE), 0xEF, 0xFE))
    return name, None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the segments up to and with the first start of scan; ends early on broken data."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = max(end, at + 2)


def _rebuilt(data: bytes, without: tuple[int, ...]) -> bytes | None:
    """Return a JPEG with nothing between its segments and without some of them, or None where it has no scan."""
    parts = [data[:2]]
    for marker, start, end in _segments(data):
        if marker == 0xDA:
            return b"".join([*parts, data[start:]])
        if marker not in without:
            parts.append(data[start:end])
    return None


def _scans_complete(data: bytes) -> bool:
    """Say whether a progressive JPEG holds every bit of every coefficient, which no decoder checks.

    Cut off between two scans and given an end marker, it decodes without a warning, only blurred.
    """
    frame = next(((start, end) for marker, start, end in _segments(data) if marker in (0xC2, 0xCA)), None)
    if frame is None:
        return True
    components = {data[at] for at in range(frame[0] + 10, frame[1] - 2, 3)}
    missing = {(component, band) for component in components for band in range(64)}
    for match in re.finditer(rb"\xff\xda\x00", data):
        scan = data[match.end() : match.end() + 16]
        count = scan[1] if len(scan) > 1 else 0
        if len(scan) < 5 + 2 * count or scan[0] != 6 + 2 * count:
            continue
        first, last, bits = scan[2 + 2 * count : 5 + 2 * count]
        if not bits & 15:
            bands = range(first, last + 1)
            missing -= {(component, band) for component in scan[2 : 2 + 2 * count : 2] for band in bands}
    return not missing


# Everything else -----------------------------------------------------------------------------------------------------


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


# Perceptual hash -----------------------------------------------------------------------------------------------------

_BITS = 16  # of a weight behind the binary point: 255 * 42^2 * 2^32 < 2^53, so every sum below is exact, in any order


@lru_cache(maxsize=1024)
def _low_frequencies(size: int) -> Matrix:
    """Return float64 [8, size]: a Lanczos resize of `size` samples to 32, and the 8 lowest frequencies of their DCT.

    Whole numbers, so that a hash does not depend on the machine's way to add; all rows but the first sum to zero, so
    that a plain picture has no frequencies whatever its size.
    """
    scale = size / 32
    width = max(scale, 1.0)
    away = (np.arange(size)[None] + 0.5 - (np.arange(32)[:, None] + 0.5) * scale) / width
    weights = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)
    whole: Matrix = np.round(cosines @ weights * 2**_BITS)
    for frequency in whole[1:]:
        while excess := int(frequency.sum()):
            largest = np.argsort(-np.abs(frequency), kind="stable")[: abs(excess)]
            frequency[largest] -= np.sign(excess)
    return whole


def _spectrum(grey: Pixels) -> Matrix:
    """Return the 8 x 8 lowest DCT coefficients of a picture, first reduced where a side is far above HASH_SIDE."""
    from PIL import Image

    height, width = grey.shape
    factors = max(1, width // HASH_SIDE), max(1, height // HASH_SIDE)
    if factors != (1, 1):
        grey = np.asarray(Image.fromarray(grey).reduce(factors))
        height, width = grey.shape
    columns: Matrix = grey.astype(np.float64) @ _low_frequencies(width).T  # this way round it takes half the time
    return _low_frequencies(height) @ columns


def _bits(spectra: Matrix) -> npt.NDArray[np.uint64]:
    """Return float64 [n, 8, 8] as uint64 [n]: a bit for each coefficient above the median, the first one highest."""
    flat = spectra.reshape(-1, 64)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").ravel().astype(np.uint64)


def perceptual_hash(grey: Pixels) -> int:
    """Return the 64-bit hash of a grey picture, uint8 [height, width]; `f"{hash:016x}"` reads like imagehash.phash."""
    return int(_bits(_spectrum(grey)[None])[0])


# Stage ---------------------------------------------------------------------------------------------------------------


def _squashed(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Return an RGB picture as RGB uint8 [PIXELS_SIDE, PIXELS_SIDE, 3], and as grey at its own size."""
    from PIL import Image

    image = Image.fromarray(pixels)
    square = image.resize((PIXELS_SIDE, PIXELS_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(square), np.asarray(image.convert("L"))


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
    version: ClassVar[int] = 1
    reads = ("row", "image", "header", "format", "width", "height")
    provides = schema(("decoding", "phash"))
    needs = Needs()

    @property
    def transient(self) -> tuple[str, ...]:
        """Name the columns that are added for the stages of this pass and never stored."""
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
            with guard.row(row.as_py()):
                picture = self._decode(data, form.as_py())
                verdicts.append(picture.decoding)
                if picture.pixels is not None:
                    seen[at] = True
                    spectra[at] = self._views(picture.pixels, None if pixels is None else pixels[at])
        batch = batch.append_column("decoding", pa.array(verdicts, pa.string()))
        batch = batch.append_column("phash", pa.array(_bits(spectra), pa.uint64(), mask=~seen))
        return batch if pixels is None else batch.append_column("pixels", _binary(pixels, seen))

    def _decode(self, image: pa.BinaryScalar, form: str) -> Picture:
        rgb = self.view == "rgb"
        side = PIXELS_SIDE if rgb else HASH_SIDE
        if form == "jpeg":
            whole = _turbo_whole(Want(image.as_buffer(), form, rgb, side, self.max_bytes))
            if whole is not None:
                return Picture(whole, "ok")
        return decode_picture(Want(image.as_py(), form, rgb, side, self.max_bytes))

    def _views(self, picture: Pixels, square: Pixels | None) -> Matrix:
        """Fill `square` where it is wanted, and return the spectrum of the picture's grey."""
        if square is None:
            return _spectrum(picture)
        square[:], grey = _squashed(picture)
        return _spectrum(grey)


def _binary(pixels: Pixels, seen: npt.NDArray[np.bool_]) -> pa.Array:
    """Return uint8 [n, side, side, 3] as fixed_size_binary without a copy, null where not `seen`."""
    valid = pa.py_buffer(np.packbits(seen, bitorder="little").tobytes())
    width = PIXELS_SIDE * PIXELS_SIDE * 3
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(seen), [valid, pa.py_buffer(pixels)])
