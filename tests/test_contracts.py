"""The import contracts hold, and each of them notices what it is there for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PLANTED = {
    "driver.planted": ("ray", "pyspark"),  # engines outside their runners
    "runners.local.planted": ("ray", "py4j"),
    "runners.spark.planted": ("ray", "curate.runners.ray"),  # another's engine, another runner
    "stages.planted": ("torch", "onnxruntime", "safetensors", "requests", "curate.driver"),
    "filters.planted": ("open_clip", "transformers", "curate.passes"),
    "passes.planted": ("aiohttp", "socket", "urllib.request", "fsspec"),
    "planning.planted": ("http.client", "httpx", "curate.report"),
    "storage.planted": ("socket", "asyncio", "curate.images"),
    "core.planted": ("curate.storage", "curate.cli"),
    "report.planted": ("curate.passes",),  # beside it, neither above nor below
    "commands.planted": ("curate.cli", "img2dataset"),
    "sources.tables.planted": ("curate.sources.tar", "curate.sources.registry"),
    "sources.webarchive.planted": ("curate.sources.folder",),
    "sources.tar_planted": (),  # modules and folders that have no place
    "runners.planted": (),
    "planted": (),
    "planted_folder.planted": (),
}
"""Modules that are added to a copy of the package, and what each imports."""


def contracts_of(folder: Path) -> str:
    """Return what the import contracts say of the package in a folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package as a wheel has it."""
    folder = tmp_path_factory.mktemp("layout")
    subprocess.run([sys.executable, str(ROOT / ".ci" / "layout.py"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def clean(laid_out: Path) -> str:
    """Return what is said of the package as it is."""
    return contracts_of(laid_out)


@pytest.fixture(scope="module")
def broken(clean: str, laid_out: Path) -> str:
    """Return what is said of the package with all that is planted."""
    for module, imports in PLANTED.items():
        path = laid_out.joinpath("curate", *module.split(".")).with_suffix(".py")
        if not path.parent.is_dir():
            path.parent.mkdir()
            (path.parent / "__init__.py").touch()
        path.write_text("".join(f"import {name}\n" for name in imports))
    return contracts_of(laid_out)


def test_the_package_keeps_all_contracts(clean: str) -> None:
    assert clean.startswith("exit code 0\n"), clean
    assert " 0 broken." in clean


def test_every_contract_is_broken_by_something(clean: str, broken: str) -> None:
    names = re.findall(r"^(.*) KEPT", clean, re.MULTILINE)
    assert broken.startswith("exit code 1\n") and len(names) >= 6
    assert re.findall(r"^(.*) BROKEN", broken, re.MULTILINE) == names


@pytest.mark.parametrize(("module", "imported"), [(module, name) for module, names in PLANTED.items() for name in names])
def test_an_import_that_may_not_be_is_noticed(module: str, imported: str, broken: str) -> None:
    name = imported if imported.startswith("curate.") else imported.partition(".")[0]
    assert re.search(rf"curate\.{re.escape(module)} -> {re.escape(name)} \(l\.", broken), broken


@pytest.mark.parametrize("place", ["sources.tar_planted", "runners.planted", "planted", "planted_folder"])
def test_a_module_without_a_place_is_noticed(place: str, broken: str) -> None:
    assert re.search(rf"^- curate\.{re.escape(place)}$", broken, re.MULTILINE), broken
