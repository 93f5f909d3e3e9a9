"""How many different texts an image has in the whole corpus."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from curate.core.contracts import Batch
from curate.counts.keys import image_key
from curate.counts.pairs import Pairs


@dataclass(frozen=True)
class TextsPerImage(Pairs):
    """The number of different texts of each image, exact from `record_from` upward."""

    fact = "texts_per_image"
    about = "image"
    doc = "different texts under this image; null below the floor"
    columns = ("image", "text")

    def key_of(self, batch: Batch) -> pa.Array:
        """Return the image's key."""
        return image_key(batch, self.identity)
