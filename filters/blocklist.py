"""Rule on images that must never be used."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, Stage, setting, threshold


@dataclass(frozen=True)
class Blocklist(Filter):
    """Drop images whose content hash or perceptual hash is in a given list: illegal or withdrawn pictures.

    A list is a text file with one hash a line, in hex, as providers of such lists give them; what follows a # is a comment:

        HASH              of 64 digits sha256, of 40 sha1, of 32 MD5 of the image file
        imagehash:HASH    16 digits, as str(imagehash.phash(image)) writes them; needs the extra imagehash
        phash:HASH        16 digits, curate's own perceptual hash: the column phash of decisions
        pdq:HASH          64 digits, PDQ as pdqhash computes it of the image in RGB; needs the extra pdq
        HASH              of 16 digits: `unmarked` says whose it is

    Most public lists of 16 digits are of imagehash.phash, older ones of this filter are of curate's own hash, and digits do
    not tell: by default such a hash is compared with both. A perceptual hash is computed as the list's own library does, of
    the file at full size, so that the same bytes are always at distance 0; imagehash and PDQ cost a second decode of
    every image, and are computed only if a list has such hashes. The evidence is the smallest Hamming distance to a listed
    perceptual hash in 64ths of its bits (four of PDQ's 256 count as one, rounded up), 0 for listed bytes. Images that fail
    are never drawn in a report. (LAION-5B was withdrawn for want of this: Thiel 2023.)

    >>> Blocklist(radius=4).keep(pa.array([0, 4, 5, None], pa.int16())).to_pylist()
    [False, False, True, True]
    """

    about = "image"
    paper = "Thiel 2023, Identifying and Eliminating CSAM in Generative ML Training Data"
    evidence = pa.int16()

    pictures = "hidden"

    lists: tuple[str, ...] = setting((), "files with a hash a line: sha256, sha1, MD5, imagehash:, phash:, pdq:")
    unmarked: Literal["either", "imagehash", "phash"] = setting("either", "whose perceptual hash 16 digits without a kind are")
    radius: int = threshold(0, "bits; a perceptual hash this near is dropped too")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: blocklist_distance; nothing without lists."""
        return ("blocklist_distance",) if self.lists else ()

    def provider(self) -> Stage | None:
        """Return the stage that searches the lists."""
        if not self.lists:
            return None
        from curate.stages.blocklist import BlocklistStage, ListRef

        return BlocklistStage(tuple(ListRef(path) for path in self.lists), self.unmarked)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the distance in bits; null without lists."""
        return batch["blocklist_distance"] if self.lists else pa.nulls(batch.num_rows, pa.int16())

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep distances above `radius`, and null."""
        return pc.fill_null(pc.greater(evidence, self.radius), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.radius,)

    def check(self) -> None:
        """Refuse a radius at which everything is listed."""
        if not 0 <= self.radius <= 31:
            raise ValueError("radius must be between 0 and 31 bits")
