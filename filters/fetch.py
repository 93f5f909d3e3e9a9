"""Rule on images that could not be fetched."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter


@dataclass(frozen=True)
class Fetch(Filter):
    """Drop images that could not be fetched, or may not be. Always on where records hold URLs.

    The evidence is 'ok', 'here' where the image came with its record, or the cause: http_404, timeout, robots, too_large, ...
    How images are fetched stands in the recipe's section `fetch`. (Some 1% of a crawl's links die every month: DataComp
    issue 41, img2dataset issue 277.)

    >>> Fetch().keep(pa.array(["ok", "here", "http_404", None])).to_pylist()
    [True, True, False, True]
    """

    about = "image"
    paper = "img2dataset issue 277"
    evidence = pa.string()

    def reads(self) -> tuple[str, ...]:
        """Name the fact: fetched, the result of the request."""
        return ("fetched",)

    def measure(self, batch: Batch) -> pa.Array:
        """Return 'ok', 'here', or the cause."""
        return batch["fetched"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep 'ok', 'here', and null (not requested)."""
        return pc.is_in(evidence, value_set=pa.array(["ok", "here", None], pa.string()))
