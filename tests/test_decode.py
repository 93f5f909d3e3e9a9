"""Decoding: every verdict, damage by name, hashes that equal imagehash's, pixels for models, and nothing raises."""

from __future__ import annotations

import io
import multiprocessing
import random
import resource
import struct
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate.images.decode import DECODERS, decode_picture
from curate.images.header import FORMATS, REASONS
from curate.images.jpeg import grey_scale_decode
from curate.images.phash import perceptual_hash
from curate.images.picture import DAMAGES, PIXELS_SIDE, DecodeRequest
from curate.images.reencode import Encoding, Fit, reencode
from curate.images.thumbnails import thumbnail
from curate.stages.decode import DecodeStage
from curate.stages.header import HeaderStage

SHARED = Path(__file__).parents[2] / "shared"


def scene(seed: int = 0, size: tuple[int, int] = (400, 300), mode: str = "RGB") -> Image.Image:
    """Draw something with the spectrum of a photo: smooth shapes, some edges, a little noise."""
    rng = random.Random(seed)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(5, max(6, size[0] // 4))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(rng.randrange(256) for _ in range(3)))
    return image.convert(mode)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or scene()).save(file, form, **options)
    return file.getvalue()


def facts(images: list[bytes | None], view: str = "grey") -> list[dict[str, object]]:
    rows = {"row": pa.array(range(len(images)), pa.int64()), "image": pa.array(images, pa.binary())}
    out = DecodeStage(view)(HeaderStage()(pa.RecordBatch.from_pydict(rows)))
    assert out.schema.names[-2:] == ["decoding", "phash"] if view == "grey" else ["phash", "pixels"]
    return out.drop_columns(["image"]).to_pylist()


def verdict(data: bytes | None) -> str:
    (fact,) = facts([data])
    decoding = fact["decoding"]
    assert isinstance(decoding, str)
    known = decoding in ("ok", "not_decodable", *REASONS) or decoding.startswith("damaged: ")
    assert known
    if decoding.startswith("damaged: "):
        names = decoding.removeprefix("damaged: ").split("+")
        assert names == sorted(set(names)) and set(names) <= DAMAGES.keys()
    assert (fact["phash"] is not None) == (decoding == "ok" or decoding.startswith("damaged: "))
    return decoding


def apart(left: int, right: int) -> int:
    return (left ^ right).bit_count()


def reference(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_file_is_ok(form: str) -> None:
    assert verdict(encoded(form)) == "ok"


def test_every_format_has_a_decoder() -> None:
    assert set(DECODERS) == set(FORMATS)


@pytest.mark.parametrize("data", [None, b"", b"<html>", b"BM", b"<svg/>"])
def test_the_reason_of_the_header_passes_through(data: bytes | None) -> None:
    (fact,) = facts([data])
    assert fact["decoding"] == fact["header"]
    assert fact["header"] in REASONS.keys() - {"ok"}
    assert fact["phash"] is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_inks_decode(mode: str) -> None:
    data = encoded("jpeg", scene(mode=mode), quality=95)
    grey, rgb = (facts([data], view)[0] for view in ("grey", "rgb"))
    assert grey["decoding"] == rgb["decoding"] == "ok"
    assert apart(grey["phash"], reference(Image.open(io.BytesIO(data)))) <= 4
    plain = Image.open(io.BytesIO(data)).convert("RGB").resize((PIXELS_SIDE, PIXELS_SIDE), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(plain, int) - square(rgb)).mean() < 2


def square(fact: dict[str, object]) -> np.ndarray:
    return np.frombuffer(fact["pixels"], np.uint8).reshape(PIXELS_SIDE, PIXELS_SIDE, 3).astype(int)


def deep_png() -> Image.Image:
    return Image.fromarray(np.asarray(scene(mode="L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "image",
    [deep_png(), scene(mode="1"), scene(mode="P"), scene(mode="L"), scene(mode="LA"), scene(mode="RGBA")],
    ids=["16 bit", "1 bit", "palette", "grey", "grey with alpha", "alpha"],
)
def test_pngs_of_other_modes_hash_like_the_plain_picture(image: Image.Image) -> None:
    plain = scene(mode="1") if image.mode == "1" else scene()
    (fact,) = facts([encoded("png", image)])
    assert fact["decoding"] == "ok"
    assert apart(fact["phash"], reference(plain)) <= 4


def test_transparency_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    for data in (encoded("png", clear), encoded("png", palette, transparency=1)):
        assert (square(facts([data], "rgb")[0]) == 255).all()


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_an_animation_is_judged_by_its_first_frame(form: str) -> None:
    data = encoded(form, scene(1), save_all=True, append_images=[scene(2), scene(3)])
    assert apart(facts([data])[0]["phash"], facts([encoded(form, scene(1))])[0]["phash"]) <= 2
    assert verdict(data) == "ok"


def test_a_wide_float_tiff_is_stretched_to_bytes() -> None:
    image = Image.fromarray(np.asarray(scene(mode="L"), np.float32) / 255 * 7 - 3)
    assert apart(facts([encoded("tiff", image)])[0]["phash"], reference(scene())) <= 4


# damage


def test_a_jpeg_without_its_end_marker_is_whole() -> None:
    data = encoded("jpeg")
    (whole, cut) = facts([data, data[:-2]])
    assert cut["decoding"] == "damaged: missing_eoi"
    assert cut["phash"] == whole["phash"]


def test_junk_in_the_header_is_named_and_the_picture_kept() -> None:
    data = encoded("jpeg")
    (whole, junk, both) = facts([data, data[:20] + b"\x00junk" + data[20:], data[:20] + b"\x00junk" + data[20:-2]])
    assert junk["decoding"] == "damaged: header_junk"
    assert both["decoding"] == "damaged: header_junk+missing_eoi"
    assert whole["phash"] == junk["phash"] == both["phash"]


def test_bytes_between_the_image_data_and_the_end_are_extra() -> None:
    data = encoded("jpeg")
    assert verdict(data[:-2] + b"\x12\x34\x56\x78" * 4 + data[-2:]) == "damaged: extra_data"


def test_bytes_behind_the_end_are_nobodys_business() -> None:
    assert verdict(encoded("jpeg") + b"behind the end") == "ok"


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_cut_file_is_never_ok(form: str, tenths: int) -> None:
    data = encoded(form)
    decoding = verdict(data[: len(data) * tenths // 10])
    assert decoding != "ok" and "missing_eoi" not in decoding


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_cut_progressive_jpeg_is_truncated_with_and_without_end_marker(tenths: int) -> None:
    data = encoded("jpeg", progressive=True)
    cut = data[: len(data) * tenths // 10]
    assert verdict(cut) == verdict(cut + b"\xff\xd9") == "damaged: truncated"


def test_a_progressive_jpeg_cut_between_two_scans_is_truncated() -> None:
    data = encoded("jpeg", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    tables = data.rindex(b"\xff\xc4", 0, second)
    assert verdict(data[:tables]) == "damaged: truncated"
    for cut in range(tables, second):  # inside the tables of the second scan
        assert verdict(data[:cut]) in ("damaged: truncated", "damaged: bad_structure")
    assert verdict(data[:-2]) == "damaged: missing_eoi"


@pytest.mark.parametrize(("form", "end"), [("png", 12), ("gif", 1)])
def test_other_formats_miss_their_end_too(form: str, end: int) -> None:
    assert verdict(encoded(form)[:-end]) == "damaged: missing_eoi"


def test_a_png_with_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(encoded("png"))
    data[-14] ^= 1
    assert verdict(bytes(data)) == "damaged: bad_entropy_data"
    text = bytearray(encoded("png", dpi=(72, 72)))
    text[text.index(b"pHYs") + 5] ^= 1
    assert verdict(bytes(text)) == "damaged: bad_metadata"


def test_a_decoder_that_meets_more_pixels_than_the_header_claimed_stops() -> None:
    for form in ("png", "gif", "webp", "bmp", "tiff", "avif"):
        assert decode_picture(DecodeRequest(encoded(form), form, max_bytes=1000)).decoding == "too_many_pixels"


def test_pillows_switches_are_put_back() -> None:
    from PIL import ImageFile

    pixels, lenient = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    verdict(encoded("png")[:500])
    assert pixels == Image.MAX_IMAGE_PIXELS
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_broken_tiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded("tiff", compression="tiff_lzw")
    broken = bytearray(data)
    broken[40:200] = b"\xff" * 160
    assert verdict(bytes(broken)) != "ok"
    assert capfd.readouterr().err == ""


# hashes


def test_hashes_are_those_of_imagehash() -> None:
    images = [scene(seed, (300 + 37 * seed, 500 - 21 * seed)) for seed in range(15)]
    for form, options in (("jpeg", {"quality": 95}), ("png", {}), ("webp", {"quality": 95})):
        found = [fact["phash"] for fact in facts([encoded(form, image, **options) for image in images])]
        distances = [apart(x, reference(image)) for x, image in zip(found, images, strict=True)]
        assert np.median(distances) <= 2 and max(distances) <= 8


def test_a_picture_at_its_own_size_hashes_exactly() -> None:
    greys = [scene(seed, (140 + seed, 160 + seed), "L") for seed in range(30)]
    equal = [perceptual_hash(np.asarray(grey)) == reference(grey) for grey in greys]
    assert np.mean(equal) >= 0.9


@pytest.mark.parametrize("size", [(1, 1), (20, 9), (33, 500), (250, 250), (3000, 40)])
def test_a_plain_picture_hashes_alike_at_any_size(size: tuple[int, int]) -> None:
    assert perceptual_hash(np.full(size, 77, np.uint8)) == 1 << 63


def test_both_views_agree() -> None:
    images = [encoded("jpeg", scene(seed, (900, 700))) for seed in range(5)]
    pairs = zip(facts(images), facts(images, "rgb"), strict=True)
    assert max(apart(grey["phash"], rgb["phash"]) for grey, rgb in pairs) <= 6


@pytest.mark.parametrize("view", ["grey", "rgb"])
def test_a_row_does_not_depend_on_its_batch(view: str) -> None:
    images = [encoded(form, scene(seed)) for seed, form in enumerate(("jpeg", "png", "gif", "webp", "jpeg"))]
    images += [images[0][:3000], None, images[1][:900]]
    together = facts(images, view)
    alone = [facts([image], view)[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert {**one, "row": 0} == other


# pixels and thumbnails


@pytest.mark.parametrize("size", [(1000, 700), (300, 260), (60, 20), (2000, 30)])
@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_pixels_are_the_whole_picture_squashed(form: str, size: tuple[int, int]) -> None:
    image = scene(4, size)
    plain = np.asarray(image.resize((PIXELS_SIDE, PIXELS_SIDE), Image.Resampling.BICUBIC), int)
    options = {"quality": 95, "subsampling": 0} if form == "jpeg" else {}
    (fact, empty) = facts([encoded(form, image, **options), b""], "rgb")
    assert np.abs(square(fact) - plain).mean() < 6
    assert empty["pixels"] is None


def test_grey_scale_decode_is_scaled_and_strict() -> None:
    data = encoded("jpeg", scene(5, (1600, 1200)))
    assert 128 <= min(grey_scale_decode(data).shape) < 300
    with pytest.raises(ValueError, match="JPEG"):
        grey_scale_decode(data[:-500])


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG" and not image.getexif()
    return image


@pytest.mark.parametrize("form", FORMATS)
def test_thumbnails_are_small_and_keep_the_shape(form: str) -> None:
    assert opened(thumbnail(encoded(form, scene(6, (800, 400))))).size == (160, 80)
    assert opened(thumbnail(encoded(form, scene(6, (50, 20))))).size == (50, 20)


def test_thumbnails_of_the_undecodable_are_none() -> None:
    assert all(thumbnail(data) is None for data in (b"", b"<html>", encoded("webp")[:200]))
    assert thumbnail(encoded("jpeg")[:-2000]) is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_are_upright(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("jpeg", scene(7, (320, 160)), exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    small = opened(thumbnail(data))
    assert small.size == ((160, 80) if orientation < 5 else (80, 160))
    assert np.abs(np.asarray(small, int) - np.asarray(upright.resize(small.size), int)).mean() < 8


def remade(data: bytes, fit: Fit | None = None, extension: str = "jpg") -> Image.Image:
    made = reencode(data, Encoding(extension, 95, fit))
    assert made is not None and not made.notes
    return opened(made.data)


def test_reencoding_keeps_or_bounds_the_size() -> None:
    data = encoded("png", scene(8, (640, 300), "RGBA"))
    assert remade(data).size == (640, 300)
    assert remade(data, Fit("longest_side", 320, only_if_bigger=True)).size == (320, 150)
    assert remade(data, Fit("longest_side", 5000, only_if_bigger=True)).size == (640, 300)
    assert reencode(b"no image", Encoding("jpg", 90)) is None


@pytest.mark.parametrize(
    ("how", "side", "size", "if_bigger"),
    [
        ("longest_side", 100, (100, 47), (100, 47)),
        ("longest_side", 1280, (1280, 600), (640, 300)),
        ("shortest_side", 150, (320, 150), (320, 150)),
        ("shortest_side", 600, (1280, 600), (640, 300)),
        ("crop", 200, (200, 200), (200, 200)),
        ("crop", 400, (400, 400), (640, 300)),
        ("pad", 320, (320, 320), (320, 320)),
        ("pad", 800, (800, 800), (640, 300)),
    ],
)
@pytest.mark.parametrize("form", ["jpeg", "png", "tiff"])
def test_pictures_fit(how: Any, side: int, size: tuple[int, int], if_bigger: tuple[int, int], form: str) -> None:
    data = encoded(form, scene(8, (640, 300)))
    assert remade(data, Fit(how, side, only_if_bigger=False)).size == size
    assert remade(data, Fit(how, side, only_if_bigger=True)).size == if_bigger


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_a_cut_is_from_the_middle_and_padding_is_white(form: str) -> None:
    """A red, a green and a blue third."""
    thirds = np.zeros((200, 600, 3), np.uint8)
    for third in range(3):
        thirds[:, third * 200 : third * 200 + 200, third] = 200
    data = encoded(form, Image.fromarray(thirds))
    middle = np.asarray(remade(data, Fit("crop", 100, only_if_bigger=False)), int)
    assert np.abs(middle[:, 5:95] - (0, 200, 0)).max() < 25
    padded = np.asarray(remade(data, Fit("pad", 300, only_if_bigger=False)), int)
    assert np.abs(padded[[10, 90, 210, 290]] - 255).max() < 12
    assert np.abs(padded[110:190, 110:190] - (0, 200, 0)).max() < 25


# hostility


SMALL = [encoded(form, scene(9, (48, 40))) for form in FORMATS]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SMALL), st.data())
def test_any_mutation_gets_a_verdict(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for at in draw.draw(st.lists(st.integers(0, len(data)), max_size=6)):
        if at < len(changed):
            changed[at] = draw.draw(st.integers(0, 255))
    verdict(bytes(changed))
    thumbnail(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([data[:40] for data in SMALL] + [b"", b"\xff\xd8"]), st.binary(max_size=400))
def test_any_bytes_get_a_verdict(start: bytes, rest: bytes) -> None:
    verdict(start + rest)


def test_bombs_allocate_nothing() -> None:
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verdict(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + header + bytes(4)) == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
@pytest.mark.parametrize("folder", ["adversarial_pillow", "adversarial_heif", "exif_orientation"])
def test_adversarial_files_get_a_verdict_in_bounded_memory(folder: str) -> None:
    paths = sorted(path for path in (SHARED / "data" / folder).rglob("*") if path.is_file())
    assert paths
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:  # other tests have used memory in this process
        assert alone.submit(peak_of_verdicts, paths).result() < 1_000_000


def peak_of_verdicts(paths: list[Path]) -> int:
    """Return the most memory that this process has had, in kB, once it has judged all of the files."""
    for path in paths:
        verdict(path.read_bytes())
    facts([path.read_bytes() for path in paths[:256]], "rgb")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])
