"""What trainers see is what models saw: pictures of every kind, as they are in the tars of a run, pixel for pixel."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from curate.images.decode import decode_picture
from curate.images.mode import unusual_mode
from curate.images.picture import DecodeRequest
from curate.images.reencode import IGNORED, Encoding, Fit, reencode
from tests.running import KEEP_ALL, Setup, decisions, make_tar, manifest, run_job
from tests.test_pack import samples

SIZE = (320, 240)
BOX = (100, 80, 220, 160)  # of the drawing: 30, 30, 30 on a transparent ground


def save(image: Image.Image, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(40, 215, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def drawing() -> Image.Image:
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.paste((30, 30, 30, 255), BOX)
    return image


def on_white() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    image.paste((30, 30, 30), BOX)
    return image


def swapped_profile() -> bytes:
    """Return an RGB profile in which red and green are exchanged: whoever ignores it shows other colours."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"#XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"#XYZ", b"gXYZ", 1)


TURNED = Image.Exif()
TURNED[0x0112] = 6
RAMP = np.linspace(0, 65535, SIZE[0], dtype=np.uint16)[None, :].repeat(SIZE[1], 0)
RAMP8 = Image.fromarray(np.round(RAMP / 257).astype(np.uint8)).convert("RGB")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FRAMES = [photo(4), photo(5)]
PHOTO = photo(3)
UPRIGHT = PHOTO.transpose(Image.Transpose.ROTATE_270)
EXCHANGED = Image.fromarray(np.asarray(PHOTO)[:, :, [1, 0, 2]])

PICTURES: dict[str, tuple[bytes, Image.Image, str | None]] = {
    "gif_clear.gif": (save(drawing(), "GIF"), on_white(), None),
    "tiff_clear.tiff": (save(drawing(), "TIFF"), on_white(), None),
    "png_clear.png": (save(drawing(), "PNG"), on_white(), "RGBA"),
    "png_palette.png": (save(drawing().quantize(8), "PNG"), on_white(), "P"),
    "png_grey_alpha.png": (save(drawing().convert("LA"), "PNG"), on_white(), "LA"),
    "png_one_clear_colour.png": (save(on_white(), "PNG", transparency=(30, 30, 30)), Image.new("RGB", SIZE, "white"), "RGBA"),
    "webp_clear.webp": (save(drawing(), "WEBP", lossless=True), on_white(), "RGBA"),
    "webp_lossy_clear.webp": (save(drawing(), "WEBP", quality=95), on_white(), "RGBA"),
    "tiff16.tiff": (save(Image.fromarray(RAMP), "TIFF"), RAMP8, None),
    "png16.png": (save(Image.fromarray(RAMP), "PNG"), RAMP8, "I;16"),
    "cmyk.jpg": (save(PHOTO.convert("CMYK"), "JPEG", quality=95), PHOTO, "CMYK"),
    "cmyk.tiff": (save(PHOTO.convert("CMYK"), "TIFF"), PHOTO, None),
    "turned.jpg": (save(PHOTO, "JPEG", exif=TURNED, quality=95), UPRIGHT, None),
    "turned.tiff": (save(PHOTO, "TIFF", exif=TURNED), UPRIGHT, None),
    "turned.png": (save(PHOTO, "PNG", exif=TURNED), UPRIGHT, None),
    "moving.webp": (save(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True), FRAMES[0], None),
    "moving.gif": (save(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), FRAMES[0], None),
    "moving.png": (save(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), FRAMES[0], None),
    "profile.jpg": (save(PHOTO, "JPEG", icc_profile=SRGB, quality=95), PHOTO, None),
    "other_profile.jpg": (save(PHOTO, "JPEG", icc_profile=swapped_profile(), quality=95), EXCHANGED, None),
    "other_profile.tiff": (save(PHOTO, "TIFF", icc_profile=swapped_profile()), EXCHANGED, None),
    "plain.jpg": (save(PHOTO, "JPEG", quality=95), PHOTO, None),
    "grey.jpg": (save(PHOTO.convert("L"), "JPEG", quality=95), PHOTO.convert("L").convert("RGB"), None),
    "black_and_white.png": (save(on_white().convert("1"), "PNG"), on_white().convert("1").convert("RGB"), "1"),
}
"""Each file, the picture that it shows, and the mode that key.json has where its bytes pass."""


def same(found: Image.Image, wanted: Image.Image) -> bool:
    """Return whether two pictures look alike: JPEG and palettes may cost a little."""
    assert found.size == wanted.size
    difference = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(wanted.convert("RGB"), int))
    return bool(difference.mean() < 6 and np.quantile(difference, 0.97) < 30)


def packed(folder: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """Run a recipe that keeps everything over PICTURES; return the samples by name."""
    members = []
    for name, (data, _, _) in PICTURES.items():
        stem, _, kind = name.partition(".")
        members += [(f"{stem}_{kind}.{kind}", data), (f"{stem}_{kind}.txt", f"a picture called {stem}".encode())]
    tar = make_tar(folder / "0.tar", members)
    run_job(Setup(KEEP_ALL, [tar], overrides), folder / "out")
    found = samples(folder / "out")
    return {name: found[name.replace(".", "_")] for name in PICTURES}


def image_of(sample: dict[str, Any]) -> tuple[str, bytes]:
    [(extension, data)] = [(name, sample[name]) for name in ("jpg", "png", "webp") if name in sample]
    return extension, data


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], Path]:
    """Return samples of a run with the default settings, and its output."""
    folder = tmp_path_factory.mktemp("kept")
    return packed(folder), folder / "out"


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return samples of a run that writes every picture again, as PNG."""
    return packed(tmp_path_factory.mktemp("remade"), "output.format=png", "output.reencode=unusual", "output.pad=320")


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_written_again_is_the_picture_that_was_meant(name: str, remade: dict[str, dict[str, Any]]) -> None:
    data, wanted, _ = PICTURES[name]
    extension, body = image_of(remade[name])
    square = Image.new("RGB", (320, 320), "white")
    square.paste(wanted, ((320 - wanted.width) // 2, (320 - wanted.height) // 2))
    with Image.open(io.BytesIO(body)) as image:
        assert (extension, image.format, image.mode, "icc_profile" in image.info) == ("png", "PNG", "RGB", False)
        assert same(image, square)
    told = remade[name]["json"]
    assert (told["sha256"], told["width"], told["height"], told["format"]) == (hashlib.sha256(body).hexdigest(), 320, 320, "png")
    assert (told["original_sha256"], told["reencoded"]) == (hashlib.sha256(data).hexdigest(), True)
    assert (told["original_width"], told["original_height"]) == SIZE
    with Image.open(io.BytesIO(data)) as original:
        assert told["original_format"] == str(original.format).lower()
    assert "mode" not in told


@pytest.mark.parametrize("name", PICTURES)
def test_smaller_pictures_are_upright_and_in_proportion(name: str) -> None:
    data, wanted, _ = PICTURES[name]
    made = reencode(data, Encoding("jpg", 95, Fit("longest_side", 160, only_if_bigger=True)))
    assert made is not None
    with Image.open(io.BytesIO(made.data)) as image:
        assert same(image, wanted.resize((wanted.width // 2, wanted.height // 2)))


@pytest.mark.parametrize("name", PICTURES)
def test_bytes_that_pass_are_described_as_they_are(name: str, kept: tuple[dict[str, dict[str, Any]], Path]) -> None:
    data, wanted, mode = PICTURES[name]
    extension, body = image_of(kept[0][name])
    told = kept[0][name]["json"]
    assert told["sha256"] == hashlib.sha256(body).hexdigest()
    assert told.get("mode") == mode
    if name.endswith((".gif", ".tiff")):
        assert (extension, told["reencoded"], told["original_sha256"]) == ("jpg", True, hashlib.sha256(data).hexdigest())
        assert (told["width"], told["height"], told["format"]) == (*wanted.size, "jpeg")
    else:
        assert (body, "reencoded" in told, told["width"], told["height"]) == (data, False, *SIZE)
    with Image.open(io.BytesIO(body)) as image:
        assert mode is not None or "profile" in name or same(ImageOps.exif_transpose(image), wanted)


def test_modes_are_counted_and_the_report_says_so(kept: tuple[dict[str, dict[str, Any]], Path]) -> None:
    modes = Counter(mode for _, _, mode in PICTURES.values() if mode)
    assert manifest(kept[1])["image_modes"] == dict(sorted(modes.items()))
    assert "LA 1, P 1, RGBA 4" in (kept[1] / "report.html").read_text()


def test_unusual_pictures_alone_can_be_written_again(tmp_path: Path) -> None:
    found = packed(tmp_path, "output.reencode=unusual")
    again = {name for name, sample in found.items() if sample["json"].get("reencoded")}
    assert again == {name for name, (_, _, mode) in PICTURES.items() if mode or name.endswith((".gif", ".tiff"))}
    assert manifest(tmp_path / "out")["image_modes"] == {}
    for name in again:
        with Image.open(io.BytesIO(image_of(found[name])[1])) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert same(image, PICTURES[name][1])


def test_what_a_loader_converts_to_rgb_is_what_was_judged_where_unusual_pictures_are_written_again(tmp_path: Path) -> None:
    found = packed(tmp_path, "output.reencode=unusual")
    profiled = {"other_profile.tiff"}  # written as sRGB; models and hashes see its values as they are
    for name in PICTURES.keys() - profiled:
        form = found[name]["json"].get("original_format", found[name]["json"]["format"])
        judged = decode_picture(DecodeRequest(PICTURES[name][0], form, rgb=True, side=None)).pixels
        with Image.open(io.BytesIO(image_of(found[name])[1])) as image:
            assert judged is not None and same(image.convert("RGB"), Image.fromarray(judged)), name


def inks_profile() -> bytes:
    """Return a CMYK profile by which cyan ink is red, and any other ink black: two grid points for each ink."""
    white, red, black = (255, 128, 128), (137, 208, 195), (0, 128, 128)  # Lab, 8 bits each
    corners = [white if inks == 0 else red if inks == 8 else black for inks in range(16)]
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += bytes(range(256)) * 4 + bytes(value for corner in corners for value in corner) + bytes(range(256)) * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    white_point = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    parts, at, entries = b"", 128 + 4 + 12 * 3, b""
    for name, body in ((b"desc", text), (b"wtpt", white_point), (b"A2B0", table)):
        body += bytes(-len(body) % 4)
        entries, parts, at = entries + struct.pack(">4sII", name, at, len(body)), parts + body, at + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", at, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", bytes(12), b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", 3) + entries + parts


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_a_cmyk_profile_is_of_inks(form: str) -> None:
    inks = Image.new("CMYK", SIZE, (255, 0, 0, 0))
    inks.paste((0, 0, 0, 0), (0, 0, 160, 240))
    made = reencode(save(inks, form, icc_profile=inks_profile()), Encoding("png", 90))
    assert made is not None and not made.notes
    wanted = Image.new("RGB", SIZE, (255, 0, 0))
    wanted.paste((255, 255, 255), (0, 0, 160, 240))
    assert same(Image.open(io.BytesIO(made.data)), wanted)


def test_a_profile_of_other_pixels_is_ignored_and_noted() -> None:
    for image, profile in ((PHOTO.convert("CMYK"), SRGB), (PHOTO.convert("L"), SRGB), (PHOTO, inks_profile())):
        made = reencode(save(image, "TIFF", icc_profile=profile), Encoding("png", 90))
        assert made is not None and made.notes == {"color_profile": IGNORED}
        assert same(Image.open(io.BytesIO(made.data)), image.convert("RGB"))


@pytest.mark.parametrize("profile", [b"no profile", SRGB[:200], b"\xff" * 3000, bytes(5 << 20), SRGB[:128] + b"\xff" * 400])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_hostile_profile_is_ignored_and_noted(profile: bytes, form: str) -> None:
    if form == "PNG" and len(profile) > 1 << 20:
        pytest.skip("Pillow refuses it while it opens the file")
    made = reencode(save(PHOTO, form, icc_profile=profile), Encoding("png", 90))
    assert made is not None and made.notes == {"color_profile": IGNORED}
    assert same(Image.open(io.BytesIO(made.data)), PHOTO)


def test_notes_outlive_packing_again(tmp_path: Path) -> None:
    """A block that gets more samples is written from its own tars, which no longer have the profile."""
    bad = [("a.tiff", save(PHOTO, "TIFF", icc_profile=b"none")), ("a.txt", b"a")]
    bad += [("b.png", save(drawing(), "PNG")), ("b.txt", b"b")]
    tars = [make_tar(tmp_path / "0.tar", bad), make_tar(tmp_path / "1.tar", [("c.jpg", save(photo(8), "JPEG")), ("c.txt", b"c")])]
    run_job(Setup(KEEP_ALL, tars[:1]), tmp_path / "grown")
    run_job(Setup(KEEP_ALL, tars[1:], into="add"), tmp_path / "grown")
    run_job(Setup(KEEP_ALL, tars), tmp_path / "once")
    found = samples(tmp_path / "grown")
    assert found["a"]["json"]["color_profile"] == IGNORED
    assert (tmp_path / "grown/shards/00000.tar").read_bytes() == (tmp_path / "once/shards/00000.tar").read_bytes()
    assert manifest(tmp_path / "grown")["image_modes"] == manifest(tmp_path / "once")["image_modes"] == {"RGBA": 1}


@pytest.mark.parametrize(("kind", "formats"), [("jpg", {"JPEG"}), ("webp", {"WEBP"}), ("png", {"PNG"})])
def test_one_format_is_one_format(kind: str, formats: set[str], tmp_path: Path) -> None:
    found = packed(tmp_path, f"output.format={kind}")
    for name, sample in found.items():
        extension, body = image_of(sample)
        assert extension == kind
        with Image.open(io.BytesIO(body)) as image:
            assert image.format in formats
        if name.endswith(f".{kind}"):
            assert body == PICTURES[name][0]
    assert {row["dropped_by"] for row in decisions(tmp_path / "out")} == {None}


def test_one_extension_changes_names_and_no_bytes(kept: tuple[dict[str, dict[str, Any]], Path], tmp_path: Path) -> None:
    for name, sample in packed(tmp_path, "output.extension=jpg").items():
        assert image_of(sample) == ("jpg", image_of(kept[0][name])[1])
        assert json.dumps(sample["json"]) == json.dumps(kept[0][name]["json"])


def test_modes_of_cut_off_files() -> None:
    for name, (data, _, mode) in PICTURES.items():
        form = {"jpg": "jpeg"}.get(kind := name.partition(".")[2], kind)
        assert unusual_mode(data, form) == mode or form in ("gif", "tiff")
        for size in range(0, 64, 3):
            unusual_mode(data[:size], form)
