"""Rule on pornographic images."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, Stage, setting, threshold


@dataclass(frozen=True)
class Nsfw(Filter):
    """Drop images whose NSFW score is `below` or more.

    ALIGN (Jia et al. 2021, section 3): "we remove pornographic images"; the paper names no model. The default is
    Yahoo's open_nsfw with the bound that its authors give for "NSFW with high probability", 0.8; their scores between
    0.2 and 0.8 are undecided: at 0.5, which COYO-700M took for the model's successor, 1.2% of Flickr8k's photos fall.
    Images that fail are blurred in reports, unless output.show_nsfw is true.

    >>> Nsfw(below=0.5).keep(pa.array([0.49, 0.5, None], pa.float32())).to_pylist()
    [True, False, True]
    """

    about = "image"
    paper = "ALIGN 2021, section 3; open_nsfw README"
    evidence = pa.float32()
    pictures = "blurred"

    below: float = threshold(0.8, "the score must be smaller, 0 to 1")
    classifier: str = setting("yahoo-open-nsfw", "spec of the model")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: nsfw_score."""
        return ("nsfw_score",)

    def provider(self) -> Stage:
        """Return the stage that scores."""
        from curate.stages.nsfw import NsfwStage

        return NsfwStage(self.classifier)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the score, 0 to 1."""
        return batch["nsfw_score"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep scores smaller than `below`, and null."""
        return pc.fill_null(pc.less(evidence, pa.scalar(self.below, pa.float32())), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.below,)

    def check(self) -> None:
        """Refuse a bound that no score is under."""
        if self.below <= 0:
            raise ValueError(f"below {self.below} is not above 0: every image would be dropped")
