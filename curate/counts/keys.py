"""The 64-bit keys of images and of pairs."""

from __future__ import annotations

import pyarrow as pa

from curate.core.contracts import Batch, CorpusCount
from curate.stages.text import mix


def image_key(batch: Batch | pa.Table, identity: str) -> pa.Array:
    """Return the 64-bit key of each image: url else content hash, or content hash alone; null where there is neither."""
    import pyarrow.compute as pc

    if identity == "content":
        return batch["content_key"]
    return pc.coalesce(batch["url_key"], batch["content_key"])


def pair_key(batch: Batch | pa.Table, count: CorpusCount) -> pa.Array:
    """Return the key under which a record is a duplicate: of image and text, or of the image alone."""
    image = image_key(batch, count.identity)
    if count.kind == "first_image":
        return image
    valid = image.is_valid().to_numpy(zero_copy_only=False) & batch["text_key"].is_valid().to_numpy(zero_copy_only=False)
    mixed = mix(image.fill_null(0).to_numpy(), batch["text_key"].fill_null(0).to_numpy())
    return pa.array(mixed, pa.uint64(), mask=~valid)
