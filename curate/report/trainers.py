"""How trainers are told where the samples of an output are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from curate.storage.file_lists import WIDS_INDEX
from curate.storage.paths import is_local
from curate.storage.samples import kind_in

IMAGES = ("jpg", "png", "webp")
"""How images in tars are called."""

_NUMBERS = 100_000  # that five digits count; a pattern of braces has one width


def for_trainers(root: str, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines that say how trainers open an output, none where it is empty; `root` as they shall spell it."""
    files, samples = manifest["files"]["shards"]["files"], manifest["kept"]
    if not files:
        return ()
    if kind_in(manifest) == "parquet":
        return (f"datasets: {for_datasets_of_parquet(root)}",)
    return (
        f"open_clip: {for_open_clip(root, files, samples)}",
        f"webdataset: {for_webdataset(root, files)}   wids: {root}/{WIDS_INDEX}",
        f"datasets: {for_datasets(root, image_columns(manifest))}",
    )


def image_columns(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the images in an output's tars can be called: one extension or format for all is one name.

    >>> image_columns({"recipe": {"output": {"format": "jpg"}}})
    ('jpg',)
    >>> image_columns({"recipe": {"output": {"format": "original or jpg"}}})  # merged
    ('jpg', 'png', 'webp')
    """
    output = (manifest.get("recipe") or {}).get("output") or {}
    named = output.get("extension") or output.get("format")
    return (named,) if named in IMAGES else IMAGES


def tar_pattern(folder: str, tars: int) -> str:
    """Return the tars of a folder as trainers expand it; more than 100,000 are two patterns.

    >>> tar_pattern("out/shards", 13)
    'out/shards/{00000..00012}.tar'
    >>> tar_pattern("out/shards", 1)
    'out/shards/00000.tar'
    >>> tar_pattern("out/shards", 100_002)
    'out/shards/{00000..99999}.tar::out/shards/{100000..100001}.tar'
    """
    parts = [(0, min(tars, _NUMBERS) - 1), (_NUMBERS, tars - 1)][: 1 + (tars > _NUMBERS)]
    return "::".join(f"{folder}/{_braces(first, last)}.tar" for first, last in parts)


def _braces(first: int, last: int) -> str:
    return f"{first:05d}" if first == last else f"{{{first:05d}..{last:05d}}}"


def for_open_clip(root: str, tars: int, samples: int) -> str:
    """Return open_clip's options for an output. Beside local tars it finds their sizes; of others it must know the number.

    >>> for_open_clip("s3://bucket/out", 2, 15)
    "--train-data 'pipe:aws s3 cp s3://bucket/out/shards/{00000..00001}.tar -' --train-num-samples 15 --dataset-type webdataset"
    """
    source = for_webdataset(root, tars)
    known = "" if is_local(root) else f" --train-num-samples {samples}"
    return f"--train-data '{source}'{known} --dataset-type webdataset"


def for_webdataset(root: str, tars: int) -> str:
    """Return the url of an output for webdataset.WebDataset: of object stores, what prints a tar."""
    command = {"s3": "aws s3 cp {} -", "gs": "gsutil cat {}"}.get(root.partition("://")[0] if "://" in root else "")
    if command is None:
        return tar_pattern(f"{root}/shards", tars)
    return "::".join(f"pipe:{command.format(part)}" for part in tar_pattern(f"{root}/shards", tars).split("::"))


def for_datasets(root: str, images: Sequence[str] = IMAGES) -> str:
    """Return the call of Hugging Face datasets, 4.7 or newer, for an output, of names that its package exports.

    It must be told the columns. Else it takes them from the first samples, whose images have to be of one format then, and
    every key.json the same types. An image is in the column of its name, of those in `images`, the others are None.

    >>> for_datasets("out").partition(", features=")[0]
    'load_dataset("webdataset", data_files="out/shards/*.tar", split="train"'
    >>> for_datasets("out", ["jpg"]).partition(", features=")[2]
    'Features(jpg=Image(), txt=Value("string"), json=Json()))'
    """
    columns = ", ".join([*(f"{name}=Image()" for name in images), 'txt=Value("string")', "json=Json()"])
    tars = json.dumps(f"{root}/shards/*.tar", ensure_ascii=False)
    return f'load_dataset("webdataset", data_files={tars}, split="train", features=Features({columns}))'


def for_datasets_of_parquet(root: str) -> str:
    """Return the call of Hugging Face datasets for an output of parquet files, which say their columns themselves.

    >>> for_datasets_of_parquet("out")
    'load_dataset("parquet", data_files="out/shards/*.parquet", split="train")'
    """
    files = json.dumps(f"{root}/shards/*.parquet", ensure_ascii=False)
    return f'load_dataset("parquet", data_files={files}, split="train")'
