"""A plug-in: how sharp an image is, and a filter that drops blurred ones."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import Fact, Filter, Stage, pixels_of, threshold


@dataclass(frozen=True)
class SharpnessStage(Stage):
    """Variance of the Laplacian of the grey 256 x 256 picture (Pech-Pacheco et al. 2000)."""

    name = "sharpness"
    facts = (Fact("sharpness", pa.float64(), "image", "variance of the Laplacian of the 256 x 256 picture", shown=True),)
    reads = ("pixels",)
    anywhere = True  # `sql` may read it too

    def __call__(self, batch):
        pictures, rows = pixels_of(batch)
        return self.answer(batch, rows, map(variance_of_laplacian, pictures))


def variance_of_laplacian(picture):
    grey = picture.astype(np.int64).sum(axis=2)
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(edges.var()) / 9


@dataclass(frozen=True)
class Sharpness(Filter):
    """Drop images that are blurred: whose sharpness is under `at_least`."""

    about = "image"
    paper = "Pech-Pacheco et al. 2000"
    evidence = pa.float64()

    at_least: float = threshold(100.0, "least variance of the Laplacian")

    def reads(self):
        return ("sharpness",)

    def provider(self):
        return SharpnessStage()

    def measure(self, batch):
        return batch["sharpness"]

    def keep(self, evidence):
        return pc.fill_null(pc.greater_equal(evidence, self.at_least), fill_value=True)

    def thresholds(self):
        return (self.at_least,)
