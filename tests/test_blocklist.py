"""Block lists: what a list may hold, and that every listed image is found, by the library that made the list."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from curate.core.contracts import Batch, Needs, TaskDied
from curate.core.errors import InputError
from curate.driver.attempts import CrashSearch
from curate.driver.resolve import resolve
from curate.images import listed_hashes
from curate.passes.image_views import ImageViews
from curate.passes.isolate import FindCrashes, crashing_rows
from curate.passes.verdict import Mask
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.sources.listing import list_shards
from curate.stages.blocklist import BlocklistStage, ListRef
from curate.stages.decode import DecodeStage
from curate.stages.hash_lists import CONTENTS, KINDS, PERCEPTUAL, UNMARKED, distances, parse
from curate.stages.header import HeaderStage
from curate.stages.nearest import nearest_hashes
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.dangerous import HANG, SEGFAULT, DangerousHashes
from tests.running import KEEP_ALL, InProcess, Setup, decisions, jpeg, make_tar, pairs, run_job

T = TypeVar("T")
R = TypeVar("R")

COLUMN = "blocklist_distance"

# Lists


@st.composite
def hashes(draw: st.DrawFn) -> tuple[str, str, bool]:
    """A kind, its digits in any case, and whether the line names the kind."""
    kind = draw(st.sampled_from(list(KINDS)))
    digits = draw(st.text("0123456789abcdefABCDEF", min_size=KINDS[kind], max_size=KINDS[kind]))
    return kind, digits, kind in PERCEPTUAL or draw(st.booleans())


@given(
    st.lists(hashes()),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n", " # why\n", "\n\n# head\n"]),
    st.booleans(),
)
def test_a_list_gives_back_what_was_written(given_: list[tuple[str, str, bool]], start: str, end: str, shout: bool) -> None:
    named = [(kind.upper() if shout else kind, digits, marked) for kind, digits, marked in given_]
    text = start + "".join(f"{kind}:{digits}{end}" if marked else digits + end for kind, digits, marked in named)
    listed = parse(text, "list")
    for kind in CONTENTS:
        assert listed.contents.get(kind, frozenset()) == {digits.lower() for one, digits, _ in given_ if one == kind}
    for kind in PERCEPTUAL:
        wanted = [digits.lower() for one, digits, _ in given_ if one == kind]
        found = listed.perceptual.get(kind, np.empty(0, np.uint64))
        assert [np.atleast_1d(each).astype(">u8").tobytes().hex() for each in found] == wanted
    assert set(listed.kinds) == {kind for kind, _, _ in given_}


@given(st.text(max_size=200))
def test_any_text_is_a_list_or_an_input_error(text: str) -> None:
    try:
        listed = parse(text, "list", "phash")
    except InputError as error:
        assert str(error).startswith("list:")
    else:
        found = [*listed.contents.values(), *listed.perceptual.values()]
        assert sum(map(len, found)) <= text.count("\n") + 1


@pytest.mark.parametrize("unmarked", UNMARKED)
def test_16_digits_alone_are_whose_the_recipe_says(unmarked: str) -> None:
    assert parse("0123456789abcdef", "list", unmarked).kinds == UNMARKED[unmarked]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("xyz", "not a hash: 'xyz'"),
        ("0" * 63, "neither sha256"),
        ("0x" + "0" * 14, "not a hash"),
        ("0" * 16 + " " + "0" * 16, "not a hash"),
        ("é" * 16, "not a hash"),
        ("\u0660" * 16, "not a hash"),
        ("imagehsh:" + "0" * 16, "unknown kind 'imagehsh'; did you mean 'imagehash'"),
        ("pdq:" + "0" * 16, "pdq has 64 hex digits, not 16"),
        ("phash:" + "0" * 64, "phash has 16 hex digits, not 64"),
        ("sha1:", "not a hash"),
    ],
)
def test_a_bad_line_is_named(line: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"bans\.txt:3: {says}"):
        parse(f"# head\n{'0' * 64}\n{line}\n", "bans.txt")


def test_a_missing_list_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        BlocklistStage((ListRef(str(tmp_path / "absent")),)).resolved(tmp_path)


def test_a_list_that_needs_a_package_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    listed = tmp_path / "bans.txt"
    listed.write_text("0" * 16)
    with pytest.raises(InputError, match=r"bans\.txt.*unmarked\), needs imagehash: pip install 'curate-image-text\[imagehash\]'"):
        BlocklistStage((ListRef(str(listed)),)).resolved(tmp_path)
    assert BlocklistStage((ListRef(str(listed)),), "phash").resolved(tmp_path).kinds == ("phash",)
    listed.write_text("pdq:" + "0" * 64)
    with pytest.raises(InputError, match=r"needs pdqhash: pip install 'curate-image-text\[pdq\]'"):
        BlocklistStage((ListRef(str(listed)),)).resolved(tmp_path)


wide = st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4), min_size=1, max_size=8)


@given(wide, wide)
def test_distances_of_256_bits_are_those_of_a_plain_loop(queries: list[list[int]], listed: list[list[int]]) -> None:
    found = distances(np.array(queries, np.uint64), np.array(listed, np.uint64)).tolist()
    for query, distance in zip(queries, found, strict=True):
        bits = min(sum((a ^ b).bit_count() for a, b in zip(query, one, strict=True)) for one in listed)
        assert distance == (bits + 3) // 4


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_distances_of_64_bits_are_bits(queries: list[int], listed: list[int]) -> None:
    given_ = np.array(queries, np.uint64), np.array(listed, np.uint64)
    assert distances(given_[0][:, None], given_[1]).tolist() == nearest_hashes(*given_)[0].tolist()


# Images


def scene(mode: str, size: tuple[int, int] = (190, 130)) -> Image.Image:
    """Return coarse noise in a mode, with an alpha of its own where the mode has one."""
    rng = np.random.default_rng(len(mode) * 7 + size[0])
    coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 4), np.uint8), "RGBA").resize(size, Image.Resampling.BICUBIC)
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(coarse.convert("L")).astype(np.uint16) * 257)
    if mode == "P":
        return coarse.convert("RGB").quantize(32)
    return coarse if mode == "RGBA" else coarse.convert("RGB").convert(mode)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def generated() -> Iterator[bytes]:
    yield from (saved(scene(mode), "PNG") for mode in ("L", "RGB", "RGBA", "P", "1", "I;16"))
    yield saved(scene("RGBA").convert("LA"), "PNG")
    yield saved(scene("P"), "PNG", transparency=3)
    yield saved(scene("P"), "PNG", transparency=bytes(range(0, 256, 8)))
    yield saved(scene("RGB"), "PNG", transparency=(0, 0, 0))
    yield saved(scene("L", (700, 900)), "JPEG")
    yield saved(scene("RGB", (1300, 900)), "JPEG", progressive=True)
    yield saved(scene("CMYK", (500, 333)), "JPEG")
    yield saved(scene("RGB", (5, 900)), "JPEG", subsampling=0)
    yield saved(scene("RGBA"), "WEBP", lossless=True)
    yield saved(scene("RGB"), "GIF")
    yield saved(scene("RGB"), "TIFF", compression="tiff_lzw")
    yield saved(scene("CMYK"), "TIFF")
    yield saved(scene("RGB"), "BMP")
    yield saved(Image.new("RGB", (64, 64), "red"), "PNG")


def demo_images(demo: Path) -> Iterator[bytes]:
    for path in sorted((demo / "pairs").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and not member.name.endswith((".txt", ".json")):
                    yield file.read()


def batch_of(images: list[bytes]) -> Batch:
    batch = pa.record_batch({"row": pa.array(range(len(images)), pa.int64()), "image": pa.array(images, pa.binary())})
    return DecodeStage()(HeaderStage()(batch))


def found_by(lines: list[str], batch: Batch, tmp_path: Path, **settings: str) -> list[int | None]:
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(lines))
    distances: list[int | None] = (
        BlocklistStage((ListRef(str(listed)),), **settings).resolved(tmp_path)(batch)[COLUMN].to_pylist()
    )
    return distances


def by_imagehash(data: bytes) -> str:
    imagehash = pytest.importorskip("imagehash")
    return str(imagehash.phash(Image.open(io.BytesIO(data))))


def decodable(images: list[bytes]) -> list[bytes]:
    """Return those that Pillow opens without complaint: what a list can have been made of."""
    found = []
    for data in images:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError):
            continue
        found.append(data)
    return found


@pytest.mark.filterwarnings("ignore:Palette images with Transparency", "ignore:.*[Mm]etadata")
@pytest.mark.parametrize("mark", ["imagehash:", ""])
def test_a_list_made_by_imagehash_of_the_same_files_finds_all(mark: str, demo: Path, tmp_path: Path) -> None:
    images = decodable([*demo_images(demo), *generated()])
    batch = batch_of(images)
    usable = [at for at, header in enumerate(batch["header"].to_pylist()) if header == "ok"]
    assert len(usable) > 150
    hashes = [by_imagehash(images[at]) for at in usable]
    for at, own in zip(usable, hashes, strict=True):  # each alone: the list's other hashes do not help
        assert found_by([mark + own], batch.slice(at, 1), tmp_path) == [0]
    by_own = found_by(hashes, batch, tmp_path, unmarked="phash")
    assert sum(by_own[at] == 0 for at in usable) < len(usable) / 2  # why the library matters


def test_distances_by_imagehash_are_its_own(tmp_path: Path) -> None:
    images = list(generated())[:8]
    imagehash = pytest.importorskip("imagehash")
    hashes = [imagehash.hex_to_hash(by_imagehash(data)) for data in images]
    assert found_by([f"imagehash:{hashes[0]}"], batch_of(images), tmp_path) == [one - hashes[0] for one in hashes]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_pdq_of_the_same_files_finds_all(tmp_path: Path) -> None:
    pdqhash = pytest.importorskip("pdqhash")
    images = list(generated())
    batch = batch_of(images)
    for at, data in enumerate(images):
        bits = pdqhash.compute(np.array(Image.open(io.BytesIO(data)).convert("RGB")))[0]
        digits = f"{int(''.join(map(str, bits)), 2):064x}"
        assert found_by([f"pdq:{digits}"], batch.slice(at, 1), tmp_path) == [0]


@pytest.mark.parametrize("kind", CONTENTS)
def test_bytes_are_found_by_their_digest(kind: str, tmp_path: Path) -> None:
    images = [*list(generated())[:3], b"no image at all"]
    digests = [hashlib.new(kind, data, usedforsecurity=False).hexdigest() for data in images]
    batch = batch_of(images)
    assert found_by([digests[1].upper(), f"{kind}:{digests[3]}"], batch, tmp_path) == [None, 0, None, 0]


def test_only_what_a_list_asks_for_is_read(tmp_path: Path) -> None:
    def reads(line: str) -> set[str]:
        listed = tmp_path / "list.txt"
        listed.write_text(line)
        return set(BlocklistStage((ListRef(str(listed)),)).resolved(tmp_path).reads)

    assert reads("0" * 64) == {"sha256"}
    assert reads("phash:" + "0" * 16) == {"sha256", "phash"}
    assert reads("0" * 40) == reads("imagehash:" + "0" * 16) == {"sha256", "row", "image", "header", "format"}


def test_the_smallest_distance_of_several_lists_counts(tmp_path: Path) -> None:
    images = list(generated())[:4]
    batch = batch_of(images)
    near = batch["phash"].to_pylist()[1] ^ 0b101
    for name, line in (("a", hashlib.sha256(images[0]).hexdigest()), ("b", f"phash:{near:016x}")):
        (tmp_path / name).write_text(f"# withdrawn\n\n{line}  # a comment\r\n")
    refs = tuple(ListRef(str(tmp_path / name)) for name in "ab")
    stage = BlocklistStage(refs).resolved(tmp_path)
    found = stage(batch)[COLUMN].to_pylist()
    assert found[:2] == [0, 2] and found[2] > 4
    none = stage(batch.set_column(batch.schema.get_field_index("phash"), "phash", pa.nulls(4, pa.uint64())))[COLUMN].to_pylist()
    assert none == [0, None, None, None]
    (tmp_path / "b").write_text("0" * 64)
    assert BlocklistStage(refs).resolved(tmp_path) != stage


# Untrusted bytes


def test_a_damaged_image_is_hashed_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saved(scene("RGB", (400, 300)), "JPEG")
    cut = whole[: len(whole) * 2 // 3]
    with monkeypatch.context() as lenient:
        lenient.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        digits = by_imagehash(cut)
    assert found_by([f"imagehash:{digits}"], batch_of([cut]), tmp_path) == [0]


@pytest.mark.parametrize("kind", listed_hashes.HASHES)
def test_nothing_larger_than_the_limit_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(listed_hashes.HASHES, kind, lambda image: b"12345678")
    data = saved(scene("RGB", (100, 50)), "PNG")
    least = 100 * 50 * (4 if kind == "pdq" else 3)  # Pillow keeps RGB in four bytes a pixel
    assert listed_hashes.listed_hash(kind, data, "png", least) == b"12345678"
    assert listed_hashes.listed_hash(kind, data, "png", least - 1) is None


def test_a_header_that_lies_is_not_believed() -> None:
    pytest.importorskip("imagehash")
    bomb = saved(Image.new("L", (3_000, 3_000)), "PNG")
    assert listed_hashes.listed_hash("imagehash", bomb, "png", 1_000_000) is None
    for data in (b"", b"\xff\xd8\xff", saved(scene("RGB"), "PNG")[:20]):
        assert listed_hashes.listed_hash("imagehash", data, "png", 1_000_000) is None


def test_the_recipes_limit_reaches_the_stage(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0" * 64)
    text = f"filters:\n  blocklist: {{lists: [{tmp_path / 'list.txt'}]}}\n  unreadable: {{max_decoded_bytes: 12345}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    stages = {stage.name: stage for stage in planning.plan(recipes.load(str(tmp_path / "recipe.yaml"))).stages()}
    assert isinstance(stage := stages["blocklist"], BlocklistStage) and stage.max_bytes == 12345


def test_what_kills_or_hangs_the_second_decode_is_found(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(4), {1: SEGFAULT, 2: HANG}))
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "out")
    store, shard = Store(storage(tmp_path / "out")), list_shards([str(tar)], {})[0]
    base = next((tmp_path / "out" / "facts").glob("base-*")).name
    FindCrashes(store, base, DecodeStage(), (), 1.0, (DangerousHashes(),))(shard)
    assert crashing_rows(store, shard) == {1: "decoder_crash", 2: "timeout"}


# Runs


def run_with(lines: list[str], recipe: str, tmp_path: Path, images: dict[str, bytes]) -> list[str | None]:
    """Return what dropped the web text of each record."""
    (tmp_path / "bans.txt").write_text("\n".join(lines))
    members = [
        (f"{name}{end}", body) for name, data in images.items() for end, body in ((".jpg", data), (".txt", b"a red thing"))
    ]
    tar = make_tar(tmp_path / "0.tar", members)
    run_job(Setup(recipe.replace("BANS", str(tmp_path / "bans.txt")), [tar]), tmp_path / "out")
    return [row["dropped_by"] for row in decisions(tmp_path / "out") if row["text_no"] == 0]


LISTS = KEEP_ALL.replace("  unreadable:", "  unreadable:\n  blocklist: {lists: [BANS]}")
MATCHED = "  caption_match: {matcher: fake, at_least: 0.01}\n  blocklist"
AFTER_MODEL = "captions: {model: fake, min_tokens: 3}\n" + LISTS.replace("  blocklist", MATCHED).lstrip()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("recipe", [LISTS, AFTER_MODEL])
@pytest.mark.parametrize("by", [_md5, by_imagehash])
def test_a_run_drops_what_is_listed(by: Callable[[bytes], str], recipe: str, tmp_path: Path) -> None:
    images = {"a": jpeg(1), "b": saved(scene("RGBA"), "PNG"), "c": jpeg(3), "d": saved(scene("CMYK"), "JPEG")}
    dropped = run_with([by(images["b"]), by(images["d"])], recipe, tmp_path, images)
    assert dropped == [None, "blocklist", None, "blocklist"]


def test_one_thread_reads_the_shard_while_models_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: set[int] = set()
    read = ImageViews.read

    def noted(self: ImageViews, wanted: Mask) -> Iterator[bytes | None]:
        readers.add(threading.get_ident())
        return read(self, wanted)

    monkeypatch.setattr(ImageViews, "read", noted)
    images = {name: jpeg(seed) for seed, name in enumerate("abc")}
    assert run_with([_md5(images["b"])], AFTER_MODEL, tmp_path, images) == [None, "blocklist", None]
    assert len(readers) == 1 and readers != {threading.get_ident()}


def test_the_search_for_crashes_decodes_as_the_list_does(tmp_path: Path) -> None:
    (tmp_path / "bans.txt").write_text("0" * 40)
    (tmp_path / "recipe.yaml").write_text(LISTS.replace("BANS", str(tmp_path / "bans.txt")))
    plan, _ = resolve(planning.plan(recipes.load(str(tmp_path / "recipe.yaml"))), tmp_path)
    tasks: list[FindCrashes] = []

    class Noting(InProcess):
        def map(self, task: Callable[[T], R], items: Iterable[T], needs: Needs) -> Iterator[R | TaskDied]:
            assert isinstance(task, FindCrashes)
            tasks.append(task)
            return iter(())

    shards = list(list_shards([str(make_tar(tmp_path / "0.tar", pairs([1])))], {}))
    CrashSearch(plan, Store(storage(tmp_path / "out")), Noting(), 1.0)(shards)
    assert [type(stage) for task in tasks for stage in task.others] == [BlocklistStage]
