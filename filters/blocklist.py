"""Rule on images that must never be used."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, Stage, setting, threshold


@dataclass(frozen=True)
class Blocklist(Filter):
    """Drop images whose content hash or perceptual hash is in a given list: illegal or withdrawn pictures.

    A list is a text file with one hash a line, hex: sha256 (64 digits) or perceptual hash (16 digits). The evidence is
    the smallest Hamming distance to a listed perceptual hash, 0 for a listed sha256. (LAION-5B was withdrawn for want
    of this: Thiel 2023.)

    >>> Blocklist(radius=4).keep(pa.array([0, 4, 5, None], pa.int16())).to_pylist()
    [False, False, True, True]
    """

    about = "image"
    paper = "Thiel 2023, Identifying and Eliminating CSAM in Generative ML Training Data"
    evidence = pa.int16()

    lists: tuple[str, ...] = setting((), "files with one sha256 or perceptual hash a line")
    radius: int = threshold(0, "bits; a perceptual hash this near is dropped too")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: blocklist_distance; nothing without lists."""
        return ("blocklist_distance",) if self.lists else ()

    def provider(self) -> Stage | None:
        """Return the stage that searches the lists."""
        if not self.lists:
            return None
        from curate.stages.blocklist import BlocklistStage, ListRef

        return BlocklistStage(tuple(ListRef(path) for path in self.lists))

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
