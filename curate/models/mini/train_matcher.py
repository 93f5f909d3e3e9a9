"""Fitting of the mini embedder and matcher: canonical correlation in closed form, then a logistic for P(match)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.core.errors import InputError
from curate.models.mini.model import Space
from curate.models.mini.network import Arrays
from curate.models.protocols import Floats

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MISMATCHED = 0.4
"""Share of mismatches that P(match) assumes: the upper end of web pools, which have 12 to 40%."""

FEWEST = 20
"""Pictures that a fit needs at least."""

_DIM = 160
_IMAGE_RIDGE, _TEXT_RIDGE = 1.0, 0.2  # times the mean variance; both and _DIM are best of a few on a fifth of the training tars
_FOLDS = 5
_NEGATIVES = 5  # texts of other pictures for each own one
_NEWTON = 30  # steps; the fit has three numbers and converges in fewer than ten
_SHRINK = 1e-3


@dataclass(frozen=True)
class Pooled:
    """Pooled features: pictures float32 [n, DIM], the same mirrored, texts [m, 2 * TEXT_DIM], the picture of each text [m]."""

    plain: Floats
    mirrored: Floats
    texts: Floats
    owners: Ints

    def only(self, pictures: Ints) -> Pooled:
        """Return some of the pictures, with their texts."""
        place = np.full(len(self.plain), -1)
        place[pictures] = np.arange(len(pictures))
        mine = place[self.owners] >= 0
        return Pooled(self.plain[pictures], self.mirrored[pictures], self.texts[mine], place[self.owners[mine]])


def fit_matcher(pooled: Pooled) -> Arrays:
    """Return the weights of `Space`: the projections of all pictures, the logistic of pictures they were not fitted on.

    Raises InputError for too few pictures.
    """
    if len(pooled.plain) < FEWEST:
        raise InputError(f"{len(pooled.plain)} pictures with captions are too few to fit a matcher: {FEWEST} at least")
    rng = np.random.default_rng(1)
    folds = np.array_split(rng.permutation(len(pooled.plain)), _FOLDS)
    own, other = [], []
    for number, fold in enumerate(folds):
        rest = np.concatenate([one for place, one in enumerate(folds) if place != number])
        first, second = evidence(Space(_projections(pooled.only(rest))), pooled.only(fold), rng)
        own.append(first)
        other.append(second)
    return {**_projections(pooled), "logistic": _logistic(np.concatenate(own), np.concatenate(other))}


def evidence(space: Space, pooled: Pooled, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Return `Space.evidence` of every text with its picture, [m, 2], and with other pictures, [m * _NEGATIVES, 2]."""
    images, texts = space.project("image", pooled.plain), space.project("text", pooled.texts)
    others = rng.integers(1, len(images), (len(texts), _NEGATIVES)) + pooled.owners[:, None]
    others %= len(images)
    own = [space.evidence(images[owner], text) for owner, text in zip(pooled.owners, texts, strict=True)]
    other = [space.evidence(images[one], text) for row, text in zip(others, texts, strict=True) for one in row]
    return np.array(own), np.array(other)


def _projections(pooled: Pooled) -> Arrays:
    views = np.concatenate([pooled.plain[pooled.owners], pooled.mirrored[pooled.owners]])
    arrays = correlate(views, np.tile(pooled.texts, (2, 1)))
    space = Space(arrays)
    for kind, features in (("image", pooled.plain), ("text", pooled.texts)):
        vectors = space.project(kind, features)
        covariance = np.cov(vectors.T) + 1e-9 * np.eye(space.dim)
        arrays |= {f"{kind}.center": vectors.mean(axis=0), f"{kind}.spread": np.linalg.cholesky(covariance).T}
    return arrays


def correlate(images: Floats, texts: Floats) -> Arrays:
    """Return the projections of canonical correlation analysis (Hotelling 1936), with a ridge on both sides.

    Row i of `images` belongs to row i of `texts`. Directions are weighted by their correlations, as by Gong et al. 2014.
    """
    means = images.mean(axis=0, dtype=np.float64), texts.mean(axis=0, dtype=np.float64)
    x, t = (images - means[0]).astype(np.float32), (texts - means[1]).astype(np.float32)
    count = len(images)
    whiten = _whitening(x.T @ x / count, _IMAGE_RIDGE), _whitening(t.T @ t / count, _TEXT_RIDGE)
    left, values, right = np.linalg.svd(whiten[0] @ (x.T @ t / count) @ whiten[1].T, full_matrices=False)
    weights = values[:_DIM]
    return {
        "image.mean": means[0],
        "image.matrix": (whiten[0].T @ left[:, :_DIM] * weights).T,
        "text.mean": means[1],
        "text.matrix": (whiten[1].T @ right[:_DIM].T * weights).T,
    }


def _whitening(covariance: Floats, ridge: float) -> Doubles:
    """Return W with W C W' = 1, C being the covariance with the ridge added."""
    size = len(covariance)
    added: Doubles = covariance + ridge * np.trace(covariance) / size * np.eye(size)
    inverse: Doubles = np.linalg.inv(np.linalg.cholesky(added))
    return inverse


def _logistic(own: Doubles, other: Doubles) -> Doubles:
    """Return the weights of both kinds of evidence and the bias, by Newton's method; mismatches weigh MISMATCHED in all."""
    x = np.column_stack([np.concatenate([own, other]), np.ones(len(own) + len(other))])
    wanted = np.arange(len(x)) < len(own)
    weights = np.where(wanted, (1 - MISMATCHED) / len(own), MISMATCHED / len(other))
    found = np.zeros(3)
    for _ in range(_NEWTON):
        chances = 1 / (1 + np.exp(-(x @ found)))
        slope = x.T @ (weights * (wanted - chances)) - _SHRINK * found
        bend = (x * (weights * chances * (1 - chances))[:, None]).T @ x + _SHRINK * np.eye(3)
        found = found + np.linalg.solve(bend, slope)
    return found
