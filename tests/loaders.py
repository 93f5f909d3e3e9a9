"""Reads an output as trainers do, told what a run prints for each of them.

Also a program, for a process that sees another webdataset than the tests: given {reader: string} as JSON, it prints
{reader: samples}, where a sample is its text, a hash of its pixels and, from loaders that give key.json, its original key.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

BATCH = 6


def pixels(image: Any) -> str:
    """Return a hash of an image's pixels: of Pillow's, or of an array of (height, width, 3) bytes."""
    return hashlib.sha256(np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image).tobytes()).hexdigest()


def open_clip(options: str, split: str) -> list[tuple[str, str]]:
    """Read "train" or "val" with open_clip's own parser of options and loader, by get_wds_dataset. Images are of one size."""
    from curate.models.torchvision_fit import fit_torchvision

    fit_torchvision()
    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args

    words = shlex.split(options)
    tars = words[words.index("--train-data") + 1]
    told = parse_args([*words, "--val-data", tars, "--batch-size", str(BATCH), "--workers", "0"])
    told.world_size = 1  # open_clip's main finds it out
    whole = (np.asarray, np.asarray)  # instead of a model's crop
    data = get_data(told, whole, tokenizer=lambda text: [text])
    batches = list(data[split].dataloader)
    if split == "train":
        assert len(batches) == data["train"].dataloader.num_batches
        assert sum(len(texts) for _, texts in batches) == data["train"].dataloader.num_samples
    return [(text, pixels(image)) for images, texts in batches for image, text in zip(images, texts, strict=True)]


def webdataset(url: str) -> list[tuple[str, str, str]]:
    """Read with webdataset.WebDataset."""
    from webdataset import WebDataset

    samples = WebDataset(url, shardshuffle=False).decode("pil").to_tuple("jpg;png;webp", "txt", "json")
    return [(text, pixels(image), told["key"]) for image, text, told in samples]


def datasets(call: str) -> list[tuple[str, str, str]]:
    """Read with a call of Hugging Face datasets."""
    import datasets

    samples = eval(call, vars(datasets))
    return [_read(one) for one in samples]


def _read(one: dict[str, Any]) -> tuple[str, str, str]:
    """Return a sample of tars, or of parquet files."""
    if "image" in one:
        return one["text"], pixels(one["image"]), json.loads(one["json"])["key"]
    return one["txt"], pixels(next(one[form] for form in ("jpg", "png", "webp") if one.get(form))), one["json"]["key"]


def datasets_of_folder(out: str) -> list[tuple[str, str, str]]:
    """Read an output with Hugging Face datasets by its README.md, told nothing else."""
    return datasets(f"load_dataset({out!r}, split='train')")


READERS: dict[str, Callable[[str], list[Any]]] = {
    "open_clip train": lambda options: open_clip(options, "train"),
    "open_clip val": lambda options: open_clip(options, "val"),
    "webdataset": webdataset,
    "datasets": datasets,
    "datasets of a folder": datasets_of_folder,
    "datasets of an object store": datasets,
    "datasets streaming": lambda call: datasets(f"{call.removesuffix(')')}, streaming=True)"),
}

if __name__ == "__main__":
    print(json.dumps({name: READERS[name](string) for name, string in json.loads(sys.argv[1]).items()}))
