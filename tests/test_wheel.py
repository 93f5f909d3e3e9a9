"""What the wheel holds, and what it must not."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="not installed: hatchling")


def wheel(source: Path, folder: Path) -> zipfile.ZipFile:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=source, check=True, capture_output=True
    )
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_no_weights_of_another_licence(tmp_path: Path) -> None:
    found = wheel(ROOT, tmp_path)
    names = set(found.namelist())
    assert {"curate/py.typed", "curate/cli.py", "curate/filters/min_side.py", "curate/pipelines/align.yaml"} <= names
    assert {"curate/models/lid176/lid.176.ftz", "curate/models/lid176/NOTICE.md"} <= names
    assert sum(name.startswith("curate/models/graphs/") for name in names) == 2
    assert not [
        name for name in names if name.endswith((".safetensors", ".pth")) or "mini_models" in name or "__pycache__" in name
    ]
    assert {name.partition("/")[0] for name in names} == {"curate", "curate_image_text-0.1.0.dist-info"}
    assert sum(item.compress_size for item in found.infolist()) < 3_000_000
    told = Parser().parsestr(found.read("curate_image_text-0.1.0.dist-info/METADATA").decode())
    assert (told["Name"], told["License-Expression"]) == ("curate-image-text", "Apache-2.0 AND CC-BY-SA-3.0")
    assert "curate = curate.__main__:main" in found.read("curate_image_text-0.1.0.dist-info/entry_points.txt").decode()


def test_the_mini_models_are_a_wheel_with_their_own_licence(tmp_path: Path) -> None:
    found = wheel(ROOT / "tests" / "mini-models", tmp_path)
    names = {name for name in found.namelist() if name.startswith("curate_mini_models/")}
    assert names == {
        f"curate_mini_models/{name}" for name in ("__init__.py", "mini-captioner.safetensors", "mini-matcher.safetensors")
    }
    told = Parser().parsestr(found.read("curate_mini_models-0.1.0.dist-info/METADATA").decode())
    assert told["License-Expression"] == "LicenseRef-non-commercial-research"
    assert "Flickr8k" in found.read("curate_mini_models-0.1.0.dist-info/licenses/LICENSE").decode()
