"""How many different images a text has in the whole corpus."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from curate.core.contracts import Batch
from curate.counts.pairs import Pairs


@dataclass(frozen=True)
class ImagesPerText(Pairs):
    """The number of different images of each text, exact from `record_from` upward."""

    fact = "images_per_text"
    about = "text"
    doc = "different images under this text; null below the floor"
    columns = ("text", "image")

    def key_of(self, batch: Batch) -> pa.Array:
        """Return the text's key."""
        return batch["text_key"]
