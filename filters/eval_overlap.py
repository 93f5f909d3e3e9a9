"""Rule on images that would leak an evaluation set into the training data."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, Stage, setting, threshold


@dataclass(frozen=True)
class EvalOverlap(Filter):
    """Drop duplicates and near-duplicates of the images of evaluation sets.

    ALIGN (Jia et al. 2021, section 3 and appendix A): "we also remove duplicates or near-duplicates of test images".
    Method `embedding` is theirs: cosine of an image embedding, searched exactly; their 0.975 holds for their embedding
    only, ours is calibrated (`curate calibrate`). Method `hash` compares perceptual hashes within `radius` bits.
    With no sets nothing is checked, and every report says so.

    >>> EvalOverlap(similarity=0.9).keep(pa.array([0.89, 0.91, None], pa.float32())).to_pylist()
    [True, False, True]
    """

    about = "image"
    paper = "ALIGN 2021, section 3 and appendix A"
    evidence = pa.float32()

    sets: tuple[str, ...] = setting((), "folders or tars of evaluation images")
    method: Literal["embedding", "hash"] = setting("embedding", "cosine of embeddings, or perceptual hash")
    embedder: str = setting("efficientnet-lite0", "spec of the image embedding")
    similarity: float = threshold(0.89, "embedding: this cosine or more is a near-duplicate")
    radius: int = threshold(10, "hash: this many bits or fewer is a near-duplicate")

    def reads(self) -> tuple[str, ...]:
        """Name the fact of the method; nothing without sets."""
        if not self.sets:
            return ()
        return ("eval_similarity",) if self.method == "embedding" else ("eval_distance",)

    def provider(self) -> Stage | None:
        """Return the stage that searches the sets."""
        if not self.sets:
            return None
        from curate.stages.eval_overlap import EvalDistanceStage, EvalSimilarityStage
        from curate.stages.evalsets import unresolved

        refs = unresolved(self.sets)
        return EvalSimilarityStage(self.embedder, refs) if self.method == "embedding" else EvalDistanceStage(refs)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the cosine, or the distance in bits; null without sets."""
        if not self.sets:
            return pa.nulls(batch.num_rows, pa.float32())
        return batch[self.reads()[0]].cast(pa.float32())

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep what is less similar, or farther, than the threshold of the method, and null."""
        if self.method == "embedding":
            return pc.fill_null(pc.less(evidence, pa.scalar(self.similarity, pa.float32())), fill_value=True)
        return pc.fill_null(pc.greater(evidence, self.radius), fill_value=True)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold of the method for the histogram."""
        return (self.similarity,) if self.method == "embedding" else (self.radius,)

    def warnings(self) -> tuple[str, ...]:
        """Say loudly that nothing is checked where there are no sets."""
        wanted = "NO EVALUATION SETS WERE GIVEN: nothing was checked against leaks. Give --set eval_overlap.sets=FOLDER[,TAR...]"
        return () if self.sets else (wanted,)

    def check(self) -> None:
        """Refuse thresholds at which everything is a duplicate."""
        if not 0 < self.similarity <= 1:
            raise ValueError("similarity must be above 0 and at most 1")
        if not 0 <= self.radius <= 31:
            raise ValueError("radius must be between 0 and 31 bits")
