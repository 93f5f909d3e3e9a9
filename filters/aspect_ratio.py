"""Rule on the shape of the image."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, threshold


@dataclass(frozen=True)
class AspectRatio(Filter):
    """Drop images whose longer side is `below` times the shorter one or more.

    ALIGN (Jia et al. 2021, section 3): kept are images "whose ... aspect ratio is smaller than 3".

    >>> AspectRatio(below=3).keep(pa.array([2.99, 3.0, None])).to_pylist()
    [True, False, True]
    """

    about = "image"
    paper = "ALIGN 2021, section 3"
    evidence = pa.float64()

    below: float = threshold(3.0, "longer side / shorter side must be smaller")

    def reads(self) -> tuple[str, ...]:
        """Name the facts: width and height, from the header alone."""
        return ("width", "height")

    def measure(self, batch: Batch) -> pa.Array:
        """Return longer side / shorter side, 1 or more."""
        shorter = pc.min_element_wise(batch["width"], batch["height"], skip_nulls=False)
        longer = pc.max_element_wise(batch["width"], batch["height"], skip_nulls=False)
        return pc.divide(longer.cast(pa.float64()), shorter.cast(pa.float64()))

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep ratios smaller than `below`, and null."""
        return pc.fill_null(pc.less(evidence, self.below), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.below,)

    def check(self) -> None:
        """Refuse a bound that no image is under."""
        if self.below <= 1:
            raise ValueError(f"below {self.below} is not above 1: every image would be dropped")
