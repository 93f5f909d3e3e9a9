"""A runner that cannot be had says so in one line, before any work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import running
from tests.running import KEEP_ALL, make_tar, pairs


@pytest.mark.parametrize(("runner", "package"), [("ray", "ray"), ("spark", "pyspark")])
def test_a_runner_without_its_package_is_one_line(runner: str, package: str, tmp_path: Path) -> None:
    fake = tmp_path / "without" / f"{package}.py"  # found first, and as if it were not there
    fake.parent.mkdir()
    fake.write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    tar = make_tar(tmp_path / "0.tar", pairs(range(1)))
    line = running.command("run", tmp_path / "recipe.yaml", tar, "--out", tmp_path / "out", "--runner", runner)
    path = os.pathsep.join([str(fake.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"curate: --runner {runner} needs {package}: pip install 'curate-image-text[{runner}]'\n"
