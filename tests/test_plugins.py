"""Plug-ins: a file with a fact from pixels and its filter works everywhere as one of curate's does."""

from __future__ import annotations

import io
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from curate import filters
from curate.core.errors import RecipeError
from curate.core.facts import FACTS
from curate.planning import loader as recipes
from curate.planning.plugins import Plugin, carried
from curate.runners.local.runner import LocalRunner
from tests.running import Setup, curate, decisions, jpeg, leftovers, make_tar, run_job, stamps, written

SHARPNESS = Path(__file__).parent / "plugins" / "sharpness.py"

RECIPE = """
plugins: [sharpness.py]
filters:
  min_side: {larger_than: 64}
  sharpness: {at_least: 30}
  sql: {where: "sharpness < 1e9"}
output: {samples_per_shard: 4, block_shards: 1}
"""


def noisy(seed: int, *, blurred: bool = False) -> bytes:
    """Return a JPEG with sharp edges, or the same out of focus."""
    image = Image.open(io.BytesIO(jpeg(seed, (96, 96)))).filter(ImageFilter.UnsharpMask(3, 300))
    image = Image.effect_noise((256, 256), 90).convert("RGB") if not seed else image.resize((256, 256), Image.Resampling.NEAREST)
    out = io.BytesIO()
    (image.filter(ImageFilter.GaussianBlur(6)) if blurred else image).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Return a run over two shards of sharp images at even rows and their blurred copies at odd ones."""
    shutil.copy(SHARPNESS, tmp_path / "sharpness.py")
    tars = []
    for shard in range(2):
        members = []
        for row in range(6):
            members.append((f"{row}.jpg", noisy(10 * shard + row // 2 + 1, blurred=row % 2 == 1)))
            members.append((f"{row}.txt", b"a text"))
        tars.append(make_tar(tmp_path / f"{shard}.tar", members))
    return Setup(RECIPE, tars)


def test_a_fact_from_pixels_and_its_filter_are_one_file(setup: Setup, tmp_path: Path) -> None:
    outcome = run_job(setup, tmp_path / "out")
    assert (outcome.failed, outcome.partial, outcome.records) == ([], [], 12)
    rows = decisions(tmp_path / "out")
    assert [row["dropped_by"] for row in rows] == [None, "sharpness"] * 6
    assert all(sharp["sharpness"] > 2 * blurred["sharpness"] for sharp, blurred in zip(rows[::2], rows[1::2], strict=True))


def test_workers_that_were_spawned_give_the_same_bytes(setup: Setup, tmp_path: Path) -> None:
    run_job(setup, tmp_path / "one")
    with LocalRunner(2) as runner:
        outcome = run_job(setup, tmp_path / "two", runner)
    assert outcome.failed == []
    assert written(tmp_path / "two") == written(tmp_path / "one")
    assert leftovers(tmp_path / "two") == []


def test_a_changed_file_computes_its_facts_again(setup: Setup, tmp_path: Path) -> None:
    run_job(setup, tmp_path / "out")
    changed = SHARPNESS.read_text().replace("edges.var()) / 9", "edges.var()) / 9e9")
    (tmp_path / "sharpness.py").write_text(changed)
    run_job(setup, tmp_path / "out")
    assert {row["dropped_by"] for row in decisions(tmp_path / "out")} == {"sharpness"}


def test_a_changed_threshold_reads_no_image(setup: Setup, tmp_path: Path) -> None:
    run_job(setup, tmp_path / "out")
    before = stamps(tmp_path / "out" / "facts", "sharpness-*/*")
    run_job(replace(setup, recipe=RECIPE.replace("30", "0")), tmp_path / "out")
    assert {row["dropped_by"] for row in decisions(tmp_path / "out")} == {None}
    assert before and stamps(tmp_path / "out" / "facts", "sharpness-*/*") == before


def test_sql_reads_the_fact_without_the_filter(setup: Setup, tmp_path: Path) -> None:
    recipe = "plugins: [sharpness.py]\nfilters:\n  sql: {where: 'sharpness >= 30'}\n"
    run_job(replace(setup, recipe=recipe), tmp_path / "out")
    rows = decisions(tmp_path / "out")
    assert [row["dropped_by"] for row in rows] == [None, "sql"] * 6
    assert rows[0]["sharpness"] > 30  # shown beside the evidence


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        ("x = 1\ndef f(:\n", 2, "SyntaxError"),
        ("import os\n\nraise KeyError('a')\n", 3, "KeyError"),
        ("from curate import Filter\n\n\nclass MinSide(Filter):\n    pass\n", 4, "there is a filter 'min_side' already"),
        (
            "import pyarrow as pa\nfrom curate import Fact, Stage\n\nclass Other(Stage):\n"
            "    name = 'other'\n    facts = (Fact('width', pa.string(), 'image', 'another'),)\n",
            4,
            "fact 'width' is declared twice",
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(source: str, line: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "r.yaml").write_text("plugins: [mine.py]\nfilters:\n  min_side:\n")
    with pytest.raises(RecipeError) as found:
        recipes.load(str(tmp_path / "r.yaml"))
    assert str(found.value).startswith(f"mine.py:{line}: ") and says in str(found.value) and "\n" not in str(found.value)
    assert str(FACTS["width"].type) == "int32" and filters.load("min_side").__module__ == "curate.filters.min_side"


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ("[../mine.py]", "outside the recipe's folder"),
        ("[/etc/passwd]", "outside the recipe's folder"),
        ("mine.py", "must be a list"),
        ("[gone.py]", "No such file"),
    ],
)
def test_a_recipe_names_files_of_its_own_folder(plugins: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "r.yaml").write_text(f"plugins: {plugins}\nfilters:\n  min_side:\n")
    with pytest.raises(RecipeError, match=says):
        recipes.load(str(folder / "r.yaml"))


def test_a_task_brings_its_plugins_along() -> None:
    plugin = Plugin("mine.py", "class Task:\n    def __call__(self, item):\n        return item + 1\n")
    task = carried(plugin.load().Task(), [plugin])
    data = pickle.dumps(task)
    del sys.modules[plugin.module]
    assert pickle.loads(data)(1) == 2
    assert carried(len, []) is len


def test_every_command_shows_a_plugin(setup: Setup, tmp_path: Path) -> None:
    recipe, out, plugin = tmp_path / "mine.yaml", tmp_path / "out", ("--plugin", SHARPNESS)
    recipe.write_text(RECIPE.replace("plugins: [sharpness.py]\n", ""))
    unknown = curate("run", recipe, *setup.inputs, "--out", out)
    assert unknown.returncode == 2 and "unknown filter 'sharpness'" in unknown.stderr
    done = curate("run", recipe, *setup.inputs, "--out", out, *plugin)
    assert done.returncode == 0, done.stderr
    assert "sharpness" in done.stdout
    assert "alive before sharpness" in curate("plan", recipe, *plugin).stdout
    listed = curate("filters", *plugin).stdout
    assert "Drop images that are blurred" in listed and "variance of the Laplacian" in listed
    why = curate("why", out, "1").stdout  # report and why need no plug-in: the manifest has what they show
    assert "fails first" in why and "at_least 30" in why
    assert [line.split()[0] for line in curate("report", out).stdout.splitlines() if line.startswith("sharpness")] == [
        "sharpness"
    ]
    assert "whose sharpness is under 30" in (out / "report.html").read_text()
    missing = curate("what-if", out, "--set", "sharpness.at_least=0")
    assert missing.returncode == 2 and "--plugin" in missing.stderr
    assert "12 of 12 records would be kept" in curate("what-if", out, "--set", "sharpness.at_least=0", *plugin).stdout


MODEL = """
import numpy as np
from curate import ModelEntry


class Grey:
    name, dim = "grey", 3

    def embed(self, pixels):
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32) + 1
        return means / np.linalg.norm(means, axis=1, keepdims=True)


GREY = ModelEntry("grey", ("embedder",), load=lambda request: Grey())
"""


def test_a_model_of_a_plugin_is_named_by_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "same.jpg").write_bytes(jpeg(1))
    tar = make_tar(tmp_path / "0.tar", [("0.jpg", jpeg(1)), ("0.txt", b"a text"), ("1.jpg", jpeg(2)), ("1.txt", b"a text")])
    recipe = f"plugins: [models.py]\nfilters:\n  eval_overlap: {{embedder: grey, similarity: 1.0, sets: [{tmp_path / 'eval'}]}}\n"
    assert run_job(Setup(recipe, [tar]), tmp_path / "out").failed == []
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == ["eval_overlap", None]


SOURCE = """
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from curate import Source
from curate.core.contracts import RECORD_SCHEMA


class Words:
    def __init__(self, shard):
        self.lines = Path(shard.url).read_text().splitlines()

    def read(self):
        rows = [{"row": n, "key": str(n), "text": line, "error": None} for n, line in enumerate(self.lines)]
        yield pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA)

    def images(self, rows):
        return (None for _ in range(rows.num_rows))


@contextmanager
def open_words(shard):
    yield Words(shard)


WORDS = Source("words", (".words",), open_words)
"""


def test_a_source_of_a_plugin_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "some.words").write_text("a b c\na\n")
    recipe = "plugins: [source.py]\nfilters:\n  caption_words: {min_words: 2}\n  unreadable:\n"
    assert run_job(Setup(recipe, [tmp_path / "some.words"]), tmp_path / "out").failed == []
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == ["unreadable", "caption_words"]
