"""The strings that a run prints for trainers, given to their own loaders: every sample once, with its text and its pixels."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from curate.report.trainers import for_datasets, for_trainers
from tests import loaders
from tests.loaders import pixels
from tests.running import KEEP_ALL, Setup, command, make_tar, manifest, picture, run_job
from tests.s3 import upload
from tests.test_pack import FORMATS, body, inputs, samples

ROOT = Path(__file__).parents[1]
OLD_WEBDATASET = ROOT / "build" / "loaders" / "webdataset-0.2.86"
"""The newest that open_clip allows: with later ones its reader of training tars fails on what they yield at the end of a tar."""

TRAINERS = ("open_clip", "webdataset", "wids", "datasets")

leaky = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""webdataset leaves closing its files to the garbage collector."""

Samples = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return an output of 18 samples in 5 tars, which hold jpg, png and webp, and {trainer: what the run printed for it}."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(KEEP_ALL)
    given = {f"{form.lower()}{seed}": picture(seed, form, (420, 260)) for seed in range(3) for form in FORMATS}
    words = command("run", "recipe.yaml", *inputs(folder / "in", given), "--out", "out", "--workers", 1)
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    lines = (line.partition(": ") for line in done.stdout.replace("   wids:", "\nwids:").splitlines())
    return folder / "out", {trainer: string for trainer, _, string in lines if trainer in TRAINERS}


@pytest.fixture(scope="module")
def packed(run: tuple[Path, dict[str, str]]) -> Path:
    return run[0]


@pytest.fixture
def printed(run: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the strings, in the folder where the command was run."""
    monkeypatch.chdir(run[0].parent)
    return run[1]


@pytest.fixture(scope="module")
def held(packed: Path) -> Samples:
    """Return what Python's tarfile and Pillow find: the text, a hash of the pixels, and the original key of each sample."""
    found = [
        (sample["txt"].decode(), pixels(Image.open(io.BytesIO(body(sample)))), key) for key, sample in samples(packed).items()
    ]
    assert (len(found), len({text for text, _, _ in found})) == (18, 18)
    return sorted(found)


def without_keys(held: Samples) -> list[tuple[str, str]]:
    return [(text, digest) for text, digest, _ in held]


def child(strings: dict[str, str], cache: Path, *path: Path) -> dict[str, list[Any]]:
    """Return what a process reads that has `path` before the installed packages."""
    search = os.pathsep.join([*map(str, (*path, ROOT)), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    program = [sys.executable, "-P", ROOT / "tests" / "loaders.py", json.dumps(strings)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return {name: sorted(map(tuple, found)) for name, found in json.loads(done.stdout).items()}


def test_a_run_says_how_trainers_open_its_tars(printed: dict[str, str]) -> None:
    assert tuple(printed) == TRAINERS
    assert "num-samples" not in printed["open_clip"]


def test_open_clip_trains_with_the_webdataset_it_allows(printed: dict[str, str], held: Samples, tmp_path: Path) -> None:
    """Told no number of samples: it takes it from sizes.json."""
    if importlib.util.find_spec("open_clip_train") is None or importlib.util.find_spec("pandas") is None:
        pytest.skip("needs the extras models and dev")
    if not OLD_WEBDATASET.is_dir():
        pytest.skip(f"needs make {OLD_WEBDATASET.relative_to(ROOT)}")
    of_open_clip = dict.fromkeys(("open_clip train", "open_clip val"), printed["open_clip"])
    found = child({**of_open_clip, "webdataset": printed["webdataset"]}, tmp_path, OLD_WEBDATASET)
    assert found == {**dict.fromkeys(of_open_clip, without_keys(held)), "webdataset": held}


@leaky
def test_open_clip_validates_with_the_newest_webdataset(printed: dict[str, str], held: Samples) -> None:
    if importlib.util.find_spec("open_clip_train") is None:  # importing it may need help
        pytest.skip("needs the extra models")
    pytest.importorskip("pandas")
    pytest.importorskip("webdataset")
    assert sorted(loaders.open_clip(printed["open_clip"], "val")) == without_keys(held)


@leaky
def test_the_newest_webdataset(printed: dict[str, str], held: Samples) -> None:
    pytest.importorskip("webdataset")
    assert sorted(loaders.webdataset(printed["webdataset"])) == held


@leaky
def test_wids(printed: dict[str, str], held: Samples, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids")
    dataset = wids.ShardListDataset(printed["wids"], cache_dir=str(tmp_path), transformations=[])
    found = []
    for place in range(len(dataset)):
        sample = {name.removeprefix("."): file for name, file in dataset[place].items()}
        image = next(sample[form] for form in ("jpg", "png", "webp") if form in sample)
        found.append((sample["txt"].read().decode(), pixels(Image.open(image)), json.load(sample["json"])["key"]))
    assert sorted(found) == held


def test_datasets(packed: Path, printed: dict[str, str], held: Samples, bucket: str, tmp_path: Path) -> None:
    """From disk at once and streamed, and from an object store (where datasets 5.2 cannot stream tars: its own fault)."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs datasets (extra dev)")
    upload(packed / "shards", f"{bucket}/out/shards")
    here, there = printed["datasets"], for_datasets(f"{bucket}/out")
    strings = {"datasets": here, "datasets streaming": here, "datasets of an object store": there}
    strings["datasets of a folder"] = str(packed)  # not the decisions: by its dataset card
    assert child(strings, tmp_path) == dict.fromkeys(strings, held)


def test_datasets_of_one_extension_need_no_columns(tmp_path: Path) -> None:
    """Formats in turn, and one that comes late: datasets guesses the columns from the first samples of a tar."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs datasets (extra dev)")
    forms = ["JPEG", "PNG", "WEBP"] * 3 + ["JPEG"] * 6 + ["PNG"] * 2
    members = []
    for number, form in enumerate(forms):
        members += [(f"{number:04d}.{form.lower()}", picture(number, form))]
        members += [(f"{number:04d}.txt", f"a boat number {number} by the pier".encode())]
    tar = make_tar(tmp_path / "0.tar", members)
    recipe = KEEP_ALL.replace("samples_per_shard: 4", "samples_per_shard: 9")
    run_job(Setup(recipe, [tar], ("output.extension=jpg",)), tmp_path / "named")
    run_job(Setup(recipe, [tar], ("output.format=jpg",)), tmp_path / "written")
    guessed = 'load_dataset("webdataset", data_files="{}/shards/*.tar", split="train")'
    for out in (tmp_path / "named", tmp_path / "written"):
        wanted = sorted((s["txt"].decode(), pixels(Image.open(io.BytesIO(s["jpg"]))), key) for key, s in samples(out).items())
        assert len(wanted) == len(forms)
        assert child({"datasets": guessed.format(out)}, tmp_path / "cache") == {"datasets": wanted}


@pytest.mark.parametrize("setting", ["extension: jpg", "format: webp"])
def test_one_name_of_images_is_one_column(setting: str, tmp_path: Path) -> None:
    """In the line for datasets and in the card, which is how datasets reads the folder."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs datasets (extra dev)")
    given = {f"{form.lower()}{seed}": picture(seed, form) for seed in range(2) for form in FORMATS}
    run_job(Setup(KEEP_ALL.replace("{", "{" + setting + ", "), inputs(tmp_path / "in", given)), tmp_path / "out")
    name = setting.partition(": ")[2]
    call = for_trainers(str(tmp_path / "out"), manifest(tmp_path / "out"))[-1].removeprefix("datasets: ")
    assert f"Features({name}=Image(), txt=" in call
    strings = {"datasets": call, "datasets of a folder": str(tmp_path / "out")}
    found = child(strings, tmp_path)
    assert found["datasets"] == found["datasets of a folder"]
    assert len(found["datasets"]) == len(given)
