"""Rules and recipes are found wherever the package is: in a zip file on the path, in a wheel that was installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from curate import filters
from curate.planning import loader

ROOT = Path(__file__).parents[1]

LOOK = """
import sys
import curate
from curate import filters
from curate.planning import loader

print(curate.__file__, loader.folder())
print(*filters.names())
print(*loader.names())
assert [filters.load(name).__module__ for name in filters.names()] == [f"curate.filters.{name}" for name in filters.names()]
print(*(len(loader.load(name).filters) for name in loader.names()))
try:
    loader.load("alig")
except Exception as error:
    print(error)
"""


def found(tmp_path: Path, at: Path) -> list[str]:
    """Return what a process finds that has the package only at `at`."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(at)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def expected(package: Path, recipes: Path) -> list[str]:
    sizes = [len(loader.load(name).filters) for name in loader.names()]
    return [
        f"{package / '__init__.py'} {recipes}",
        " ".join(filters.names()),
        " ".join(loader.names()),
        " ".join(map(str, sizes)),
        f"no recipe 'alig': neither a file nor one of {', '.join(loader.names())}; did you mean 'align'?",
    ]


def test_in_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        for folder in ("curate", "filters", "pipelines"):
            for path in sorted((ROOT / folder).rglob("*")):
                if "__pycache__" not in path.parts:
                    archive.write(path, path.relative_to(ROOT))
    code = tmp_path / "code.zip"
    first, *rest = found(tmp_path, code)
    assert [first.rstrip("/"), *rest] == expected(code / "curate", code / "pipelines")


def test_in_a_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, cannot be downloaded")
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, capture_output=True)
    assert not (site / "filters").exists()
    assert found(tmp_path, site) == expected(site / "curate", site / "curate" / "pipelines")
