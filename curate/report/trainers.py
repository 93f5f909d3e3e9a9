"""How trainers are told where the tars of an output are."""

from __future__ import annotations

import json

from curate.storage.file_lists import WIDS_INDEX
from curate.storage.paths import is_local

_NUMBERS = 100_000  # that five digits count; a pattern of braces has one width


def for_trainers(root: str, tars: int, samples: int) -> tuple[str, ...]:
    """Return the lines that say how trainers open an output of at least one tar; `root` as they shall spell it."""
    return (
        f"open_clip: {for_open_clip(root, tars, samples)}",
        f"webdataset: {for_webdataset(root, tars)}   wids: {root}/{WIDS_INDEX}",
        f"datasets: {for_datasets(root)}",
    )


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


def for_datasets(root: str) -> str:
    """Return the call of Hugging Face datasets, 4.7 or newer, for an output, of names that its package exports.

    It must be told the columns. Else it takes them from the first samples, whose images have to be of one format then, and
    every key.json the same types. An image is in the column of its format, the other two are None.

    >>> for_datasets("out").partition(", features=")[0]
    'load_dataset("webdataset", data_files="out/shards/*.tar", split="train"'
    """
    columns = 'jpg=Image(), png=Image(), webp=Image(), txt=Value("string"), json=Json()'
    tars = json.dumps(f"{root}/shards/*.tar", ensure_ascii=False)
    return f'load_dataset("webdataset", data_files={tars}, split="train", features=Features({columns}))'
