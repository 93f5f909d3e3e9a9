"""Rule on the shorter side of the image."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, threshold


@dataclass(frozen=True)
class MinSide(Filter):
    """Drop images whose shorter side is `larger_than` pixels or less. An unknown size is for `unreadable` to judge.

    ALIGN (Jia et al. 2021, section 3): "images whose shorter dimension is larger than 200 pixels" are kept.

    >>> MinSide(larger_than=200).keep(pa.array([200, 201, None], pa.int32())).to_pylist()
    [False, True, True]
    """

    about = "image"
    paper = "ALIGN 2021, section 3"
    evidence = pa.int32()

    larger_than: int = threshold(200, "pixels; the shorter side must be larger")

    def reads(self) -> tuple[str, ...]:
        """Name the facts: width and height, from the header alone."""
        return ("width", "height")

    def measure(self, batch: Batch) -> pa.Array:
        """Return the shorter side in pixels."""
        return pc.min_element_wise(batch["width"], batch["height"], skip_nulls=False)

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep what is larger than `larger_than`, and null."""
        return pc.fill_null(pc.greater(evidence, self.larger_than), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.larger_than,)
