"""Headers: every reason, every format, sizes as stored, and nothing that hostile bytes can do about it."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.images.header import FORMATS, REASONS, read_header
from curate.stages.header import HeaderStage

SHARED = Path(__file__).parents[2] / "shared"


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, form, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_claiming(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", body) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


def tiff_of(tags: dict[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def facts(images: list[bytes | None], stage: HeaderStage | None = None) -> list[dict[str, object]]:
    batch = pa.RecordBatch.from_arrays([pa.array(images, pa.binary())], names=["image"])
    out = (stage or HeaderStage())(batch)
    assert out.schema.names == ["image", *(fact.name for fact in HeaderStage.facts)]
    assert out.schema.types[1:] == [fact.type for fact in HeaderStage.facts]
    return out.drop_columns(["image"]).to_pylist()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [(40, 30), (1, 7), (301, 17)])
def test_every_format_tells_its_size(form: str, size: tuple[int, int]) -> None:
    data = encoded(form, picture(size=size))
    (fact,) = facts([data])
    assert (fact["header"], fact["format"]) == ("ok", form)
    assert (fact["width"], fact["height"], fact["animated"]) == (*size, False)
    assert (fact["bytes"], fact["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("webp", {"lossless": True}),
        ("webp", {"xmp": b"<xmp/>"}),
        ("jpeg", {"progressive": True}),
        ("tiff", {"big_tiff": True}),
    ],
)
def test_variants_of_a_format_tell_the_same(form: str, options: dict[str, object]) -> None:
    header = read_header(encoded(form, **options))
    assert (header.reason, header.width, header.height) == ("ok", 40, 30)


@pytest.mark.parametrize("form", ["gif", "webp", "png", "tiff"])
def test_more_than_one_frame_is_animated(form: str) -> None:
    frames = [picture().rotate(angle) for angle in (90, 180)]
    assert read_header(encoded(form, picture(), save_all=True, append_images=frames)).animated


@pytest.mark.parametrize(
    ("data", "reason", "form"),
    [
        (None, "missing", None),
        (b"", "empty", None),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image", None),
        (b"\x00" * 100, "not_an_image", None),
        (b"PK\x03\x04", "not_an_image", None),
        (b"%PDF-1.7", "not_an_image", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format", "svg"),
        (b"<?xml version='1.0'?><svg/>", "unsupported_format", "svg"),
        (encoded("ico"), "unsupported_format", "ico"),
        (encoded("jpeg2000"), "unsupported_format", "jp2"),
        (encoded("ppm"), "unsupported_format", "pnm"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "unsupported_format", "heif"),
        (b"\xff\xd8", "bad_header", "jpeg"),
        (b"\xff\xd8\xff\xd9", "bad_header", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "bad_header", "png"),
        (b"RIFF\x04\x00\x00\x00WEBP", "bad_header", "webp"),
        (b"GIF89a", "bad_header", "gif"),
        (b"BM", "bad_header", "bmp"),
        (b"II*\x00\x08\x00\x00\x00", "bad_header", "tiff"),
        (tiff_of({256: 10, 257: 10, 322: 60000, 323: 60000}), "bad_header", "tiff"),
        (png_claiming(0, 10), "bad_header", "png"),
    ],
)
def test_every_reason(data: bytes | None, reason: str, form: str | None) -> None:
    (fact,) = facts([data])
    assert (fact["header"], fact["format"]) == (reason, form)
    assert reason in REASONS
    assert (fact["sha256"] is None) == (fact["bytes"] is None) == (data is None)


def bombs() -> dict[str, bytes]:
    webp, jpeg = bytearray(encoded("webp", xmp=b"<xmp/>")), bytearray(encoded("jpeg"))
    webp[24:30] = (16000).to_bytes(3, "little") * 2
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\xff\xff\xff"
    gif, bmp = bytearray(encoded("gif")), bytearray(encoded("bmp"))
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp[18:26] = struct.pack("<ii", 40000, -40000)
    tiff = tiff_of({256: 40000, 257: 40000, 258: 8, 277: 3})
    return {"png": png_claiming(40000, 40000), "webp": webp, "jpeg": jpeg, "gif": gif, "bmp": bmp, "tiff": tiff}


@pytest.mark.parametrize(("form", "data"), bombs().items(), ids=list(bombs()))
def test_bombs_are_told_by_their_header(form: str, data: bytes) -> None:
    header = read_header(bytes(data))
    assert (header.reason, header.format) == ("too_many_pixels", form)
    assert header.width and header.width >= 16000


def test_the_bound_is_bytes_once_decoded() -> None:
    rgb, grey, deep = encoded("png"), encoded("png", picture("L")), encoded("png", picture("I;16"))
    wants = [(rgb, 40 * 30 * 3), (grey, 40 * 30), (deep, 40 * 30 * 2)]
    for data, size in wants:
        assert facts([data], HeaderStage(size))[0]["header"] == "ok"
        assert facts([data], HeaderStage(size - 1))[0]["header"] == "too_many_pixels"


def test_a_gif_frame_outside_its_screen_counts() -> None:
    data = bytearray(encoded("gif"))
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 5 : at + 9] = struct.pack("<HH", 65000, 65000)
    assert read_header(bytes(data)).reason == "too_many_pixels"


def test_junk_before_the_markers_of_a_jpeg_is_skipped() -> None:
    data = encoded("jpeg")
    assert read_header(data[:2] + b"\x00junk\x12" + data[2:]).width == 40


def test_an_empty_batch_keeps_its_schema() -> None:
    assert facts([]) == []


STARTS = [encoded(form)[:64] for form in FORMATS] + [b""]


@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_any_bytes_get_a_reason(start: bytes, rest: bytes) -> None:
    assert read_header(start + rest).reason in REASONS


@given(st.sampled_from([encoded(form) for form in FORMATS]), st.data())
def test_any_cut_and_any_flip_get_a_reason(data: bytes, draw: st.DataObject) -> None:
    cut = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for at in draw.draw(st.lists(st.integers(0, max(len(cut) - 1, 0)), max_size=5)):
        if at < len(cut):
            cut[at] = draw.draw(st.integers(0, 255))
    assert read_header(bytes(cut)).reason in REASONS


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_sizes_agree_with_pillow_on_real_files() -> None:
    checked = 0
    for path in sorted((SHARED / "data" / "imagenet_sample").iterdir())[:40]:
        with Image.open(path) as image:
            header = read_header(path.read_bytes())
            assert (header.reason, header.width, header.height) == ("ok", *image.size)
            checked += 1
    assert checked
