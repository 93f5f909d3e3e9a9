"""Image headers: format, size and animation, read from the first bytes without decoding."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from curate.images.gif import colour_table_bytes, count_frames, skip_sub_blocks

MAX_DECODED_BYTES = 400_000_000
"""Default limit on the decoded size that a header may claim."""

REASONS: dict[str, str] = {
    "ok": "a supported format with a readable header",
    "missing": "the record has no image",
    "empty": "the image has no bytes",
    "not_an_image": "no known image format: HTML, text, an archive, noise",
    "unsupported_format": "an image in a format that is not decoded: SVG, HEIF, JPEG 2000, ICO, PSD, ...",
    "bad_header": "starts like an image, but the header is cut off or invalid",
    "too_many_pixels": "claims more decoded bytes than the limit",
}
"""The values of the fact `header` and their meanings."""

FORMATS: tuple[str, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
"""The formats that can be decoded."""

HEAD_BYTES = 4096
"""The frame header of most JPEGs is within this many bytes."""

# Memory that readers hold besides the picture, in bytes a pixel: libwebp and libavif keep the canvas twice until Pillow has
# copied it, Pillow's GIF reader keeps the screen beside the frame, its run-length BMP reader keeps two copies
_COPIES, _SCREENS, _RUNS = 8, 2, 3


class Header(NamedTuple):
    """What a header claims: `reason` is a key of REASONS; sizes in pixels as stored; `depth` in bytes per decoded pixel."""

    reason: str
    format: str | None = None
    width: int | None = None
    height: int | None = None
    animated: bool | None = None
    depth: int = 0


def _jpeg(data: bytes) -> Header:
    """Walk the markers up to the frame header, as libjpeg does: junk before a marker is skipped."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return Header("bad_header", "jpeg")
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no payload
            at += 2
        elif marker in (0xD9, 0xDA):  # image data, or the end, before any frame header
            return Header("bad_header", "jpeg")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return Header("ok", "jpeg", width, height, animated=False, depth=channels * (1 if bits <= 8 else 2))
        else:
            at += 2 + max(2, (data[at + 2] << 8) | data[at + 3])


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png(data: bytes) -> Header:
    """Read IHDR and look for an animation control chunk before the image data."""
    name, width, height, bits, kind = struct.unpack_from(">4sIIBB", data, 12)
    if name != b"IHDR" or kind not in _PNG_CHANNELS:
        return Header("bad_header", "png")
    at, animated = 33, False
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"acTL" and at + 12 <= len(data):
            animated = struct.unpack_from(">I", data, at + 8)[0] > 1
        if name in (b"acTL", b"IDAT", b"IEND"):
            break
        at += 12 + size
    return Header("ok", "png", width, height, animated, _PNG_CHANNELS[kind] * (2 if bits == 16 else 1))


def _gif(data: bytes) -> Header:
    """Read the logical screen, extended to hold the first frame, as decoders do."""
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + colour_table_bytes(data[10])
    while at < len(data) and data[at] == 0x21:
        at = skip_sub_blocks(data, at + 2)
    if data[at] == 0x2C:
        left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
        width, height = max(width, left + wide), max(height, top + high)
    return Header("ok", "gif", width, height, count_frames(data, 2)[0] > 1, _SCREENS)


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        return Header("ok" if len(data) >= 30 else "bad_header", "webp", width, height, bool(flags & 2), _COPIES)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("ok", "webp", (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1, animated=False, depth=_COPIES)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("ok", "webp", width & 0x3FFF, height & 0x3FFF, animated=False, depth=_COPIES)
    return Header("bad_header", "webp")


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    packed = 0
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size >= 20:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
    else:
        return Header("bad_header", "bmp")
    upright = abs(height)  # negative: stored top-down
    return Header("ok", "bmp", width, upright, animated=False, depth=_RUNS if packed in (1, 2) else max(1, bits // 8))


_TIFF_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff(data: bytes) -> Header:
    """Read the first directory of a TIFF or BigTIFF: size, samples, and the tile size that a reader would allocate."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at, step = at + (8 if big else 2), 20 if big else 12
    if entries > 65535:
        return Header("bad_header", "tiff")
    tags: dict[int, int] = {}
    for entry in range(at, at + entries * step, step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (count,) = struct.unpack_from(order + ("Q" if big else "I"), data, entry + 4)
        if kind in _TIFF_SIZES and count:
            code = _TIFF_SIZES[kind]
            where = entry + (12 if big else 8)
            if count * struct.calcsize(code) > (8 if big else 4):
                (where,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
            if where + struct.calcsize(code) <= len(data):
                tags[tag] = struct.unpack_from(order + code, data, where)[0]
    after = data[at + entries * step :][: 8 if big else 4]
    depth = tags.get(277, 1) * max(1, tags.get(258, 1) // 8)
    tile = tags.get(322, 0) * tags.get(323, 0)
    if tile > 4 * max(tags.get(256, 0) * tags.get(257, 0), 1 << 20):
        return Header("bad_header", "tiff", tags.get(256), tags.get(257), any(after), depth)
    return Header("ok", "tiff", tags.get(256, 0), tags.get(257, 0), any(after), depth)


def _heif(data: bytes) -> Header:
    """Read the brands of an ISO media file and the largest `ispe` (spatial extent) of its items."""
    (size,) = struct.unpack_from(">I", data, 0)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(size, 256, len(data)), 4))}
    known = bool({b"avif", b"avis"} & brands)
    if not known and not {b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1"} & brands:
        return Header("not_an_image")
    extents = []
    at = data.find(b"ispe", 0, 1 << 20)
    while at >= 0 and at + 16 <= len(data):
        extents.append(struct.unpack_from(">II", data, at + 8))
        at = data.find(b"ispe", at + 4, 1 << 20)
    width, height = max(extents, key=lambda extent: extent[0] * extent[1], default=(None, None))
    if not known:
        return Header("unsupported_format", "heif", _int32(width), _int32(height), b"msf1" in brands)
    reason = "ok" if extents else "bad_header"
    return Header(reason, "avif", width, height, data[8:12] == b"avis", _COPIES)


_PARSERS: tuple[tuple[int, bytes, str, Callable[[bytes], Header]], ...] = (
    (0, b"\xff\xd8\xff", "jpeg", _jpeg),
    (0, b"\x89PNG\r\n\x1a\n", "png", _png),
    (8, b"WEBP", "webp", _webp),
    (0, b"GIF87a", "gif", _gif),
    (0, b"GIF89a", "gif", _gif),
    (4, b"ftyp", "heif", _heif),
    (0, b"II*\x00", "tiff", _tiff),
    (0, b"MM\x00*", "tiff", _tiff),
    (0, b"II+\x00", "tiff", _tiff),
    (0, b"MM\x00+", "tiff", _tiff),
    (0, b"BM", "bmp", _bmp),
    (0, b"\xff\xd8", "jpeg", _jpeg),  # junk before the first marker: the decoder repairs it
)


def _int32(value: int | None) -> int | None:
    """Return `value`, or None if it does not fit the fact's type (no image is that large)."""
    return value if value is not None and 0 <= value < 1 << 31 else None


_UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x01\x00", "ico"),
    (0, b"\x00\x00\x02\x00", "ico"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (0, b"\xff\x4f\xff\x51", "jp2"),
    (0, b"\xff\x0a", "jxl"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (0, b"8BPS", "psd"),
    (0, b"DDS ", "dds"),
    (0, b"%!PS", "eps"),
    (0, b"\xc5\xd0\xd3\xc6", "eps"),
    (0, b"gimp xcf", "xcf"),
    (0, b"\x01\xda", "sgi"),
    (0, b"BLP1", "blp"),
    (0, b"BLP2", "blp"),
    (0, b"qoif", "qoi"),
    (0, b"v/1\x01", "exr"),
    (0, b"\xd7\xcd\xc6\x9a", "wmf"),
    (40, b" EMF", "emf"),
    (4, b"\x11\xaf", "fli"),
    (4, b"\x12\xaf", "fli"),
)

_PNM = tuple(b"P%d%c" % (kind, space) for kind in range(1, 8) for space in b" \n\r\t#")


def _other(data: bytes) -> Header:
    """Classify a file that no parser recognises."""
    for at, magic, name in _UNSUPPORTED:
        if data.startswith(magic, at):
            return Header("unsupported_format", name)
    if data.startswith(_PNM):
        return Header("unsupported_format", "pnm")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start):
        return Header("unsupported_format", "svg")
    return Header("not_an_image")


def _parse(data: bytes) -> Header:
    for at, magic, name, parser in _PARSERS:
        if data.startswith(magic, at):
            try:
                return parser(data)
            except (struct.error, IndexError):  # the file ends inside its header
                return Header("bad_header", name)
    return _other(data)


def read_header(data: bytes | None, max_decoded_bytes: int = MAX_DECODED_BYTES) -> Header:
    """Return what the header of `data` claims. Never raises, and allocates nothing of the claimed size.

    >>> read_header(b"<html>").reason
    'not_an_image'
    """
    if data is None:
        return Header("missing")
    if not data:
        return Header("empty")
    header = _parse(data)
    if header.reason != "ok":
        return header
    width, height = _int32(header.width), _int32(header.height)
    if not width or not height or not header.depth:
        return header._replace(reason="bad_header", width=width, height=height)
    if width * height * header.depth > max_decoded_bytes:
        return header._replace(reason="too_many_pixels")
    return header
