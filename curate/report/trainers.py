"""How trainers are told where the tars of an output are."""

from __future__ import annotations

from curate.storage.paths import is_local

_NUMBERS = 100_000  # that five digits count; a pattern of braces has one width


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
