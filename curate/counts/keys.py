"""The 64-bit keys of images, and of pairs of image and text."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch
from curate.core.counting import Keys
from curate.stages.text import mix

Identity = Literal["url", "content"]
"""What makes two images the same one: their URL (the content hash where there is none), or the content hash alone."""


def image_key(batch: Batch, identity: Identity) -> pa.Array:
    """Return the key of each image (uint64), null where there is none."""
    if identity == "content":
        return batch["content_key"]
    return pc.coalesce(batch["url_key"], batch["content_key"])


def pair_key(image: pa.Array, text: pa.Array) -> pa.Array:
    """Return one key (uint64) for each image and text, null where either is."""
    valid = image.is_valid().to_numpy(zero_copy_only=False) & text.is_valid().to_numpy(zero_copy_only=False)
    mixed = mix(image.fill_null(0).to_numpy(), text.fill_null(0).to_numpy())
    return pa.array(mixed, pa.uint64(), mask=~valid)


def both_known(keys: pa.Array, other: pa.Array) -> tuple[Keys, npt.NDArray[Any]]:
    """Return the rows in which neither value is null, as two arrays."""
    both = keys.is_valid().to_numpy(zero_copy_only=False) & other.is_valid().to_numpy(zero_copy_only=False)
    return keys.fill_null(0).to_numpy()[both], other.fill_null(0).to_numpy()[both]
