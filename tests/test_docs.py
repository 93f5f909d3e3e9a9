"""The READMEs: links lead somewhere, commands and recipes are valid, the tour runs, and tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from click.testing import CliRunner

from curate import filters
from curate.cli import main
from curate.planning import loader as recipes
from curate.planning import plugins
from tests.bench.__main__ import NAMES

ROOT = Path(__file__).parents[1]
READMES = [ROOT / name for name in (
    "README.md", "curate/README.md", "curate/fetch/README.md", "curate/sources/README.md", "filters/README.md",
    "jobs/README.md", "pipelines/README.md", "tests/bench/README.md",
)]  # fmt: skip
PAIRS = 20  # of the tour's crawl
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Return the words of every line in the blocks of shell, without comments."""
    return [words for block in blocks(path, "sh") for line in block.splitlines() if (words := shlex.split(line, comments=True))]


ALL = [(path, words) for path in READMES for words in commands(path)]
CURATE = [words[words.index("curate") + 1 :] for _, words in ALL if "curate" in words]


def test_every_readme_is_checked() -> None:
    found = {
        path for folder in ("curate", "filters", "pipelines", "jobs", "tests") for path in (ROOT / folder).rglob("README.md")
    }
    assert found | {ROOT / "README.md"} == set(READMES)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize("path", READMES, ids=named)
def test_links_are_relative_and_lead_to_files(path: Path) -> None:
    targets = re.findall(
        r"\]\(([^)#]+)", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    )
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("words", CURATE, ids=" ".join)
def test_a_command_of_a_readme_is_valid(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    name, *arguments = words
    given: dict[str, Any] = main.commands[name].make_context(name, arguments).params
    if "recipe" in given:
        loaded = plugins.given(given.get("plugins", ()))
        recipes.load(given["recipe"], given.get("overrides", ()), given.get("models"), loaded)


@pytest.mark.parametrize(("path", "words"), ALL, ids=lambda value: " ".join(value) if isinstance(value, list) else named(value))
def test_what_other_commands_name_is_there(path: Path, words: list[str]) -> None:
    files = [word for word in words if re.match(r"(jobs|docker|tests)/", word)]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    for word in words:
        if extras := re.fullmatch(r"\.\[([a-z0-9,]+)\]", word):
            assert set(extras[1].split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    if words[:3] == ["python", "-m", "tests.bench"]:
        assert set(words[3:]) <= set(NAMES)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("text", [text for path in READMES for text in blocks(path, "yaml")], ids=lambda text: text[:30])
def test_a_recipe_of_a_readme_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert list(recipes.load(str(tmp_path / "recipe.yaml")).filters) == list(yaml.safe_load(text)["filters"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """Return a folder with what the tour names: a crawl of one small tar, two evaluation sets, the plug-in and its recipe."""
    folder = tmp_path_factory.mktemp("tour")
    (folder / "my_rules.py").write_text(blocks(ROOT / "README.md", "python")[0])
    (folder / "mine.yaml").write_text("filters:\n  caption_words:\n  sharpness: {at_least: 50}\n")
    for name in ("crawl/00000.tar", "new/00001.tar", "new/00002.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        with tarfile.open(demo / "pairs" / Path(name).name) as source, tarfile.open(folder / name, "w") as target:
            for member in source.getmembers()[: 3 * PAIRS]:
                target.addfile(member, source.extractfile(member))
    shutil.copytree(demo / "eval", folder / "imagenet_val")
    with tarfile.open(folder / "coco_test.tar", "w") as tar:
        tar.add(demo / "eval" / "00.jpg", "0.jpg")
    return folder


def test_the_tour_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)  # one worker, since starting costs the most here
    with tarfile.open("crawl/00000.tar") as tar:
        key = tar.getnames()[0].partition(".")[0]
    instead = {"blip-large": "mini", "000012345": key}  # a model of the hub; a key of this crawl
    instead["min_side.larger_than=256"] = "min_side.larger_than=100"  # its pictures are small: none would be kept
    tour = [words for words in commands(ROOT / "README.md") if words[0] == "curate"]
    assert len(tour) == 15
    for _, *words in tour:
        done = CliRunner().invoke(main, [instead.get(word, word) for word in words])
        assert done.exit_code == 0, (words, done.output)
    assert Path("out/report.html").is_file() and Path("out2/manifest.json").is_file()
    assert "sharpness" in Path("out3/report.html").read_text(encoding="utf-8")
    [query] = blocks(ROOT / "README.md", "sql")
    assert sum(count for _, count in duckdb.sql(query).fetchall()) == 3 * PAIRS


def test_the_program_runs(place: Path) -> None:
    (place / "program.py").write_text(blocks(ROOT / "README.md", "python")[1] + "    print(outcome.kept, len(texts))\n")
    done = subprocess.run([sys.executable, "program.py"], cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kept, texts = done.stdout.split()
    assert kept == texts


# Tables --------------------------------------------------------------------------------------------------------------


def test_every_filter_stands_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "filters" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(filters.names())


def test_the_layers_are_those_of_the_import_contract() -> None:
    text = (ROOT / "curate" / "README.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^    ([a-z_:| ]+?)(?:   .*)?$", text.partition("every folder has its layer:\n")[2].partition("\n| ")[0], re.MULTILINE
    )
    assert shown == PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]


def test_every_folder_stands_in_the_architecture() -> None:
    text = (ROOT / "curate" / "README.md").read_text(encoding="utf-8")
    folders = [path.name for path in (ROOT / "curate").iterdir() if (path / "__init__.py").exists() and path.name != "commands"]
    assert [name for name in folders if f"`{name}/`" not in text] == []


def test_every_benchmark_stands_in_the_table() -> None:
    text = (ROOT / "tests" / "bench" / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert rows | {"estimate"} == set(NAMES)  # jobs/README.md has the estimate
