"""docker/: linted, and held against the repository that they copy from; there is no engine here that could build them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_jobs import PROJECT, ROOT, tool

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
IDS = [path.stem for path in FILES]


@dataclass(frozen=True)
class Instruction:
    stage: int  # how many FROM stand before it, itself included
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    found: list[Instruction] = []
    stage = 0
    for name, _, text in (line.partition(" ") for line in joined if line.strip()):
        stage += name == "FROM"
        found.append(Instruction(stage, name, text.strip()))
    return found


def texts(path: Path, name: str) -> list[str]:
    return [one.text for one in instructions(path) if one.name == name]


def final(path: Path, name: str) -> list[str]:
    last = instructions(path)[-1].stage
    return [one.text for one in instructions(path) if one.stage == last and one.name == name]


def in_context(path: Path) -> bool:
    """Return whether .dockerignore lets a path of the repository into the build's context: the last pattern that fits it says."""
    parts = path.relative_to(ROOT).parts
    names = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            kept = line.startswith("!") if any(re.fullmatch(pattern, name) for name in names) else kept
    return kept


def copied(path: Path) -> set[str]:
    """Return what COPY takes from the context."""
    return {name for text in texts(path, "COPY") if not text.startswith("--from=") for name in text.split()[:-1]}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_hadolint_says_nothing(path: Path) -> None:
    found = subprocess.run([tool("hadolint"), "--no-color", path], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_hadolint_is_told_to_pass_over_has_a_reason_above_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        assert "hadolint ignore" not in line or lines[number - 1].startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_base_images_are_pinned_and_have_a_python_that_we_support(path: Path) -> None:
    bases = {text.split()[0] for text in texts(path, "FROM")}
    assert len(bases) == 1  # the packages move between stages with the paths and libraries of one
    found = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-bookworm", bases.pop())
    assert found
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert (int(found[1]), int(found[2])) >= (int(least[0]), int(least[1]))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_copied_is_there_and_in_the_context(path: Path) -> None:
    assert {"curate", "filters", "pipelines", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == copied(path)
    assert all((ROOT / name).exists() and in_context(ROOT / name) for name in copied(path))
    for text in texts(path, "COPY"):
        if stage := re.match(r"--from=(\w+)", text):
            assert f" AS {stage[1]}" in "".join(texts(path, "FROM"))


def test_nothing_else_is_in_the_context() -> None:
    assert {path.name for path in ROOT.iterdir() if in_context(path)} == set.union(*map(copied, FILES))
    files = [path for path in (ROOT / "curate").rglob("*") if path.is_file() and in_context(path)]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert not any("__pycache__" in path.parts for path in files)
    assert ROOT / "curate" / "cli.py" in files


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_image_runs_the_command_and_not_as_root(path: Path) -> None:
    assert [json.loads(text) for text in final(path, "ENTRYPOINT")] == [["curate"]]
    assert final(path, "CMD") == []
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final(path, "USER")[-1])
    assert [one.name for one in instructions(path)][-3:] == ["USER", "HEALTHCHECK", "ENTRYPOINT"]  # nothing is run after USER
    assert f'version="{PROJECT["version"]}"' in final(path, "LABEL")[0]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_extras_are_those_of_the_project_and_packages_are_constrained(path: Path) -> None:
    default = dict(text.split("=") for text in texts(path, "ARG") if "=" in text)
    assert set(default["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    installs = [text for text in texts(path, "RUN") if "pip install" in text]
    assert len(installs) == 2
    assert all("--no-cache-dir" in text for text in texts(path, "RUN") if "pip " in text)
    assert '".[$EXTRAS]"' in installs[0] and "-c constraints.txt" in installs[0]
    assert "--no-deps" in installs[1]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_registry_is_named(path: Path) -> None:
    assert "://" not in "".join(one.text for one in instructions(path))


def test_the_cpu_image_is_not_built_without_an_index_of_cpu_builds() -> None:
    [install] = [text for text in texts(ROOT / "docker" / "cpu.Dockerfile", "RUN") if "constraints.txt" in text]
    variables = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX"}
    found = subprocess.run(["sh", "-c", install], env=variables, capture_output=True, text=True)
    assert found.returncode != 0
    assert "TORCH_INDEX: an index with CPU builds" in found.stderr
