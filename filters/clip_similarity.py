"""Rule on texts that are far from their image in an embedding of both."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, Stage, setting, threshold


@dataclass(frozen=True)
class ClipSimilarity(Filter):
    """Drop texts, web and synthetic, whose cosine with their image is under `at_least`.

    LAION-400M (Schuhmann et al. 2021) kept 0.3 and more with CLIP ViT-B/32; LAION-5B (2022) 0.28 for English. The values
    belong to the model: another embedder needs another threshold. A text with nothing in it has no score and is dropped.

    >>> ClipSimilarity(at_least=0.28).keep(pa.array([0.27, 0.28, None], pa.float32())).to_pylist()
    [False, True, False]
    """

    about = "text"
    paper = "LAION-400M 2021; LAION-5B 2022, section 3"
    evidence = pa.float32()
    per_text = True

    at_least: float = threshold(0.28, "the least cosine that is kept, -1 to 1")
    embedder: str = setting("open_clip:ViT-B-32/openai", "spec of an embedding of images and texts")
    weights: str | None = setting(None, "sha256 of the weights, where only these will do; a run records it anyway")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: clip_scores."""
        return ("clip_scores",)

    def provider(self) -> Stage:
        """Return the stage that embeds images and texts."""
        from curate.stages.clip import ClipStage

        return ClipStage(self.embedder, self.weights)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the cosine, -1 to 1."""
        return batch["clip_scores"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep `at_least` and more; never a null."""
        return pc.fill_null(pc.greater_equal(evidence, pa.scalar(self.at_least, pa.float32())), fill_value=False)

    def thresholds(self) -> tuple[float, ...]:
        """Return the threshold for the histogram."""
        return (self.at_least,)

    def check(self) -> None:
        """Refuse a bound that no cosine reaches."""
        if not -1 < self.at_least <= 1:
            raise ValueError(f"at_least {self.at_least} is not above -1 and at most 1")
