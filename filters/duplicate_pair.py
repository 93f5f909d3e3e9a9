"""Rule on records that are in the corpus more than once."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, setting
from curate.counts.first_seen import FirstImage, FirstPair, FirstSeen
from curate.counts.keys import Identity


@dataclass(frozen=True)
class DuplicatePair(Filter):
    """Drop all but the first record of the same image and text, or of the same image.

    First by shard and position in it, so the choice is stable. Exact: the image's identity and the normalised text.
    The evidence is the shard/row of that first record, null on the first itself. (COYO-700M removes the same pairs.)

    >>> DuplicatePair().keep(pa.array([None, "0/17"])).to_pylist()
    [True, False]
    """

    about = "image"
    paper = "COYO-700M README"
    evidence = pa.string()

    same: Literal["pair", "image"] = setting("pair", "what must be the same: image and text (pair), or the image")
    identity: Identity = setting("content", "what makes images one: content hash, or url (else content)")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: first_pair or first_image."""
        return (f"first_{self.same}",)

    def provider(self) -> FirstSeen:
        """Return the corpus count."""
        return FirstPair(self.identity) if self.same == "pair" else FirstImage(self.identity)

    def measure(self, batch: Batch) -> pa.Array:
        """Return shard/row of the first record, null on it."""
        return batch[f"first_{self.same}"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep the first."""
        return pc.is_null(evidence)
