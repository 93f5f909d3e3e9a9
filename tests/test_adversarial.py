"""Records that nobody would write on purpose, and files that break decoders: a verdict and a reason each, nothing outside OUT."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.runners.local.runner import LocalRunner
from tests import running
from tests.running import KEEP_ALL, Setup, curate, jpeg, leftovers, make_tar, manifest, run_job

NAME = re.compile(r"[0-9a-f]{8}[0-9]{15}\.(jpg|png|webp|json|txt)")

IMAGE = jpeg(1)

TEXT = b"a picture of a thing"

BOMB = b'{"a":' * 10_000 + b"1" + b"}" * 10_000

HOSTILE: list[tuple[str, list[tuple[str, bytes]], dict[str, object]]] = [
    # what it is, its members, what the decisions say of the first record of that key
    ("plain", [("plain.jpg", IMAGE), ("plain.txt", TEXT)], {"error": None, "dropped_by": None}),
    ("folders", [("a/b/c.jpg", IMAGE), ("a/b/c.txt", TEXT)], {"key": "a/b/c", "error": None, "dropped_by": None}),
    ("up", [("../../evil.jpg", IMAGE), ("../../evil.txt", TEXT)], {"key": "../../evil", "error": "unsafe_key"}),
    ("absolute", [("/etc/evil.jpg", IMAGE), ("/etc/evil.txt", TEXT)], {"key": "/etc/evil", "error": "unsafe_key"}),
    ("dots", [("photo.of.me.jpg", IMAGE), ("photo.txt", TEXT)], {"key": "photo", "error": None, "dropped_by": None}),
    ("inside", [("a/../../evil.jpg", IMAGE), ("a/../../evil.txt", TEXT)], {"key": "a/../../evil", "error": "unsafe_key"}),
    ("two dots", [("a..b.jpg", IMAGE), ("a.txt", TEXT)], {"key": "a", "error": None, "dropped_by": None}),
    ("backslash", [("c:\\evil.jpg", IMAGE), ("c:\\evil.txt", TEXT)], {"key": "c:\\evil", "error": "unsafe_key"}),
    ("control", [("bell\x07.jpg", IMAGE), ("bell\x07.txt", TEXT)], {"key": "bell\x07", "error": "unsafe_key"}),
    ("no text", [("notext.jpg", IMAGE)], {"key": "notext", "error": "missing_text", "text": None}),
    ("no image", [("noimage.txt", TEXT)], {"key": "noimage", "error": "missing_image", "dropped_by": "unreadable"}),
    ("empty image", [("empty.jpg", b""), ("empty.txt", TEXT)], {"key": "empty", "dropped_by": "unreadable"}),
    ("empty text", [("silent.jpg", IMAGE), ("silent.txt", b"")], {"key": "silent", "text": "", "error": None}),
    ("NUL", [("nul.jpg", IMAGE), ("nul.txt", b"a\0b\0")], {"key": "nul", "text": "a\0b\0", "error": None}),
    ("not UTF-8", [("latin.jpg", IMAGE), ("latin.txt", b"caf\xe9 au lait")], {"error": "text_not_utf8", "key": "latin"}),
    ("1 MB of text", [("long.jpg", IMAGE), ("long.txt", b"word " * 200_000)], {"error": "text_too_long"}),
    ("one long word", [("word.jpg", IMAGE), ("word.txt", b"x" * 1_000_000)], {"error": "text_too_long"}),
    ("empty json", [("void.jpg", IMAGE), ("void.txt", TEXT), ("void.json", b"")], {"error": "bad_json", "dropped_by": None}),
    ("json bomb", [("deep.jpg", IMAGE), ("deep.txt", TEXT), ("deep.json", BOMB)], {"key": "deep", "error": "bad_json"}),
    ("open bomb", [("nest.jpg", IMAGE), ("nest.txt", TEXT), ("nest.json", b"[" * 10_000)], {"error": "bad_json"}),
    ("no object", [("list.jpg", IMAGE), ("list.txt", TEXT), ("list.json", b"[1]")], {"key": "list", "error": "bad_json"}),
    ("odd url", [("url.jpg", IMAGE), ("url.txt", TEXT), ("url.json", b'{"url": {"a": 1}}')], {"key": "url", "url": None}),
    ("surrogate", [("sur.jpg", IMAGE), ("sur.json", b'{"caption": "a \\ud800 b"}')], {"key": "sur", "error": "text_not_utf8"}),
    ("huge key", [("k" * 5000 + ".jpg", IMAGE), ("k" * 5000 + ".txt", TEXT)], {"dropped_by": None}),
    ("web page", [("page.jpg", b"<!DOCTYPE html>404"), ("page.txt", TEXT)], {"key": "page", "dropped_by": "unreadable"}),
    ("twice", [("twice.jpg", jpeg(2)), ("twice.txt", TEXT), ("other.jpg", IMAGE), ("twice.jpg", IMAGE)], {"key": "twice"}),
    ("markup", [("<script>.jpg", IMAGE), ("<script>.txt", b"<script>alert(1)</script>")], {"dropped_by": None}),
]


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run, by the command and with real workers, over all hostile records; checks where it wrote."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, (_, members, _) in enumerate(HOSTILE):
        make_tar(folder / "in" / f"{number:03d}.tar", [*members, ("zz-sound.jpg", jpeg(99)), ("zz-sound.txt", b"the last one")])
    (folder / "recipe.yaml").write_text(KEEP_ALL)
    (folder / "out").mkdir()
    before = listing(folder)
    done = curate(
        "run", folder / "recipe.yaml", folder / "in", "--out", folder / "out", "--workers", 2, "--max-bad-records", "10%"
    )
    assert done.returncode == 0, done.stderr
    assert {path for path in listing(folder) - before if not path.startswith(f"{folder / 'out'}/")} == set()
    return folder / "out"


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=[name.replace(" ", "-") for name, _, _ in HOSTILE])
def test_a_hostile_record_is_recorded_and_its_neighbour_is_kept(number: int, hostile: Path) -> None:
    name, _, expected = HOSTILE[number]
    rows = [row for row in running.decisions(hostile) if row["shard"] == f"{number:03d}.tar"]
    assert rows[-1]["key"] == "zz-sound"
    assert rows[-1]["dropped_by"] is None
    assert {column: rows[0][column] for column in expected} == expected
    if name == "not UTF-8":
        assert rows[0]["text"] == "caf\ufffd au lait"
    if name == "twice":
        assert [(row["key"], row["error"]) for row in rows[1:3]] == [
            ("other", "missing_text"),
            ("twice", "duplicate_key,missing_text"),
        ]


def test_names_in_tars_are_ours(hostile: Path) -> None:
    names = []
    for path in sorted((hostile / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(names) > 3 * len(HOSTILE)
    assert all(NAME.fullmatch(name) for name in names)
    assert len(set(names)) == len(names)
    assert leftovers(hostile) == []


def test_what_was_written_verifies_and_every_command_survives_it(hostile: Path) -> None:
    assert curate("verify", hostile).returncode == 0
    for key in ("../../evil", "k" * 5000, "<script>", "bell\x07"):
        told = curate("why", hostile, key)
        assert (told.returncode, "Traceback" in told.stderr) == (0, False), told.stderr
    assert "<script>alert" not in (hostile / "report.html").read_text()


def test_a_long_text_reaches_tar_and_decisions_alike(hostile: Path) -> None:
    row = next(row for row in running.decisions(hostile) if row["key"] == "long")
    assert len(row["text"]) == 65_536
    for path in (hostile / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            if f"{row['sample_key']}.txt" in tar.getnames():
                assert tar.extractfile(f"{row['sample_key']}.txt").read().decode() == row["text"]  # type: ignore[union-attr]
                assert json.loads(tar.extractfile(f"{row['sample_key']}.json").read())["key"] == "long"  # type: ignore[union-attr]
                return
    raise AssertionError("it is in no tar")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
members = st.tuples(names, st.sampled_from(["", ".jpg", ".txt", ".json", ".JPG", ".."]), st.binary(max_size=40))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(members, min_size=1, max_size=8))
def test_any_names_and_bytes_give_a_finished_run(drawn: list[tuple[str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = [("zz-sound.jpg", IMAGE), ("zz-sound.txt", TEXT)]
        make_tar(folder / "in.tar", [(stem + extension, body) for stem, extension, body in drawn] + sound)
        outcome = run_job(Setup(KEEP_ALL, [folder / "in.tar"]), folder / "out")
        rows = running.decisions(folder / "out")
        assert (outcome.failed, outcome.partial) == ([], [])
        assert "zz-sound" in {row["key"] for row in rows if row["dropped_by"] is None}
        assert {path.name for path in folder.iterdir()} == {"in.tar", "out", "recipe.yaml"}
        assert all(row["dropped_by"] == "unreadable" for row in rows if not row["sample_key"])


# Images --------------------------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, data: bytes) -> bytes:
    """Return a PNG that claims a size, whatever its data hold."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_images_that_lie_about_themselves_are_dropped_with_a_reason(tmp_path: Path) -> None:
    images = {
        "bomb": png(40_000, 40_000, bytes(1_000_000)),
        "zero": png(0, 10, b""),
        "little": png(300, 300, bytes(100)),
        "cut": IMAGE[: len(IMAGE) // 2],
        "gif": b"GIF89a",
        "tail": b"\xff\xd8\xff",
        "text": b"\x89PNG\r\n\x1a\n",
    }
    inside = [part for key, body in images.items() for part in ((f"{key}.jpg", body), (f"{key}.txt", TEXT))]
    tar = make_tar(tmp_path / "0.tar", inside)
    outcome = run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    rows = {row["key"]: row for row in running.decisions(tmp_path / "out")}
    assert {row["dropped_by"] for row in rows.values()} == {"unreadable"}
    assert all(row["unreadable"] for row in rows.values())
    assert rows["bomb"]["unreadable"] == "too_many_pixels"
    assert outcome.kept == 0


def encoded(number: int, form: str, mode: str = "RGB", more: tuple[int, ...] = ()) -> bytes:
    """Return a picture in a format of Pillow's, with further pictures in the same file."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    others = [image.rotate(180) for _ in more]
    image.save(file, form, **({"save_all": True, "append_images": others} if others else {}))
    return file.getvalue()


def test_odd_images_are_kept_beside_broken_ones_which_end_nothing(tmp_path: Path) -> None:
    good = encoded(3, "JPEG")
    trailer = b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1500000000000SEFHj\0\0\0SEFT"  # as Samsung's phones write it
    kept = {"plain": good, "zeros_after_it": good + bytes(512), "two_in_a_row": good + encoded(4, "JPEG"),
            "trailer": good + trailer, "several_in_one": encoded(3, "MPO", more=(1,)), "webp_named_jpg": encoded(3, "WEBP"),
            "inks": encoded(3, "JPEG", "CMYK")}  # fmt: skip
    dropped = {"cut": (good[: len(good) // 2], "damaged: truncated"), "page": (b"<!doctype html><p>404", "not_an_image"),
               "empty": (b"", "empty"), "noise": (bytes(range(256)) * 8, "not_an_image")}  # fmt: skip
    images = {**kept, **{key: body for key, (body, _) in dropped.items()}}
    inside = [part for key, body in images.items() for part in ((f"{key}.jpg", body), (f"{key}.txt", TEXT))]
    outcome = run_job(Setup(KEEP_ALL, [make_tar(tmp_path / "0.tar", inside)]), tmp_path / "out")
    rows = {row["key"]: row for row in running.decisions(tmp_path / "out")}
    assert {key for key, row in rows.items() if row["dropped_by"] is None} == kept.keys()
    assert {key: rows[key]["unreadable"] for key in dropped} == {key: why for key, (_, why) in dropped.items()}
    assert (outcome.kept, outcome.failed) == (len(kept), [])


def test_every_adversarial_file_gets_a_verdict_and_a_reason(shared: Path, tmp_path: Path) -> None:
    files = [
        path
        for folder in ("adversarial_pillow", "adversarial_heif", "exif_orientation")
        for path in sorted((shared / "data" / folder).rglob("*"))
        if path.is_file()
    ]
    assert len(files) > 400
    for number in range(4):
        part = list(enumerate(files))[number::4]
        named = [(f"{at:05d}.jpg", path.read_bytes(), str(path.name).encode()) for at, path in part]
        inside = [item for name, body, text in named for item in ((name, body), (name.replace(".jpg", ".txt"), text))]
        make_tar(tmp_path / "in" / f"{number}.tar", inside)
    recipe = KEEP_ALL.replace("  unreadable:", "  min_side: {larger_than: 0}\n  unreadable:")
    with LocalRunner(2) as runner:
        outcome = run_job(Setup(recipe, [tmp_path / "in"]), tmp_path / "out", runner)
    assert (outcome.failed, outcome.partial) == ([], [])
    rows = running.decisions(tmp_path / "out")
    assert {int(row["key"]) for row in rows} == set(range(len(files)))
    reasons = [row["unreadable"] for row in rows if row["dropped_by"] == "unreadable"]
    assert all(reasons)
    assert not {"decoder_crash", "timeout"} & set(reasons)
    assert 0 < outcome.kept < len(files)
    assert manifest(tmp_path / "out")["records"] == len(files)
    turned = [row for row in rows if "exif_orientation" in str(files[int(row["key"])])]
    assert turned
    assert all(row["dropped_by"] is None for row in turned)
    assert curate("verify", tmp_path / "out").returncode == 0
