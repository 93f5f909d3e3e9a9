"""JPEG decoding with libjpeg-turbo: scaled, strict, with a diagnosis of damaged files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from curate.images.header import read_header
from curate.images.picture import NOT_DECODABLE, DecodeRequest, Picture, Pixels, damage_named, decoding_of
from curate.images.pillow import decode_pillow

_WARNINGS = (
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

_REPAIRS = 4  # at most, in one file


def grey_scale_decode(data: bytes) -> Pixels:
    """Return a JPEG as grey uint8 [height, width] at the scale used for hashing. Raises ValueError on any warning."""
    return _turbo(DecodeRequest(data, "jpeg"))


def _turbo(request: DecodeRequest, *, strict: bool = True) -> Pixels:
    import simplejpeg

    side = request.side or 0
    colors = "RGB" if request.rgb else "GRAY"
    pixels = simplejpeg.decode_jpeg(request.data, colors, min_height=side, min_width=side, strict=strict)
    return np.asarray(pixels if request.rgb else pixels[:, :, 0], np.uint8)


def decode_intact_jpeg(request: DecodeRequest) -> Pixels | None:
    """Decode a JPEG of one or three channels without copying its bytes; None on any warning. Nearly all files pass."""
    import simplejpeg

    try:
        colors = simplejpeg.decode_jpeg_header(request.data, strict=True)[2]
        return _turbo(request) if colors in ("Gray", "YCbCr", "RGB") else None
    except ValueError:
        return None


def _turbo_cmyk(request: DecodeRequest, *, strict: bool = True) -> Pixels:
    """Decode CMYK, inverted, as Adobe writes it and Pillow reads it."""
    import simplejpeg
    from PIL import Image

    side = request.side or 0
    inks = simplejpeg.decode_jpeg(request.data, "CMYK", min_height=side, min_width=side, strict=strict)
    height, width = inks.shape[:2]
    image = Image.frombuffer("CMYK", (width, height), (255 - inks).tobytes(), "raw", "CMYK", 0, 1)
    return np.asarray(image.convert(request.mode))


def decode_jpeg(request: DecodeRequest) -> Picture:
    """Decode strictly; on a warning name and repair the fault, and retry; at last decode leniently."""
    turbo = _turbo_cmyk if read_header(request.data).depth == 4 else _turbo
    names: set[str] = set()
    for _ in range(_REPAIRS):
        try:
            pixels = turbo(request)
        except ValueError as error:
            name, repaired = _diagnose(request.data, str(error))
            if name == "truncated":  # a cut-off file gives this warning once its end marker is restored
                names.discard("missing_eoi")
            names.add(name)
            if name == "odd_sampling":
                loose = decode_pillow(request)
                return loose if loose.pixels is None else Picture(loose.pixels, decoding_of(names))
            if repaired is None:
                break
            request = replace(request, data=repaired)
        else:
            if "missing_eoi" in names and not _scans_complete(request.data):
                names = names - {"missing_eoi"} | {"truncated"}
            return Picture(pixels, decoding_of(names))
    try:
        return Picture(turbo(request, strict=False), decoding_of(names))
    except ValueError:
        return Picture(None, NOT_DECODABLE)


def _diagnose(data: bytes, message: str) -> tuple[str, bytes | None]:
    """Return the damage behind a libjpeg warning, and the data without it; None for data that cannot be repaired."""
    name = damage_named(message, _WARNINGS)
    if name == "missing_eoi":
        if data.endswith(b"\xff\xd9"):  # the marker was read as part of a cut-off segment
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
    """Yield (marker, start, end) of the segments up to and including the first start of scan; stops early on broken data."""
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
    """Return a JPEG without bytes between its segments and without some segments; None if it has no scan."""
    parts = [data[:2]]
    for marker, start, end in _segments(data):
        if marker == 0xDA:
            return b"".join([*parts, data[start:]])
        if marker not in without:
            parts.append(data[start:end])
    return None


def _scans_complete(data: bytes) -> bool:
    """Return whether a progressive JPEG has every bit of every coefficient, which no decoder checks.

    A file that was cut off between two scans and got an end marker decodes without a warning, but blurred.
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
