"""Rule on texts that do not say what is in the image, by image-text matching."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import IMAGE_ROWS, Batch, Filter, Precision, Stage, setting, threshold


@dataclass(frozen=True)
class CaptionMatch(Filter):
    """Drop texts, web and synthetic, whose P(match) with their image is under `at_least`.

    CapFilt's filter (Li et al. 2022, BLIP, section 3.3): the ITM head "predicts a text as unmatched"; 0.5 is the authors'
    stated rule, equal to taking the likelier class. A text with nothing in it, and a synthetic caption with a fault (a
    loop, a web address, cut off), has no score and is dropped.

    >>> CaptionMatch(at_least=0.5).keep(pa.array([0.49, 0.5, None], pa.float32())).to_pylist()
    [False, True, False]
    """

    about = "text"
    paper = "BLIP 2022, section 3.3"
    evidence = pa.float32()
    per_text = True

    at_least: float = threshold(0.5, "the least P(match) that is kept, 0 to 1")
    matcher: str = setting("hf:Salesforce/blip-itm-large-coco", "spec of the matcher")
    batch: int = setting(128, "images of one call into the model on a GPU; part of what decides the last bits")
    precision: Precision = setting("bfloat16", "the numbers that the model calculates with: bfloat16 or float32")
    weights: str | None = setting(None, "sha256 of the weights, where only these will do; a run records it anyway")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: match_scores."""
        return ("match_scores",)

    def provider(self) -> Stage:
        """Return the stage that matches."""
        from curate.stages.match import MatchStage

        return MatchStage(self.matcher, self.batch, self.precision, self.weights)

    def measure(self, batch: Batch) -> pa.Array:
        """Return P(match), 0 to 1."""
        return batch["match_scores"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep `at_least` and more; never a null."""
        return pc.fill_null(pc.greater_equal(evidence, pa.scalar(self.at_least, pa.float32())), fill_value=False)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.at_least,)

    def check(self) -> None:
        """Refuse a bound that every text or none reaches."""
        if not 0 < self.at_least <= 1:
            raise ValueError(f"at_least {self.at_least} is not above 0 and at most 1")
        if not 1 <= self.batch <= IMAGE_ROWS:
            raise ValueError(f"batch {self.batch} is not 1 to {IMAGE_ROWS}, the images that are in memory at once")
