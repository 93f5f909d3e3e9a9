"""How good the mini models are: CIDEr-D and BLEU-4 of captions, AUC, calibration and recall of matches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.models.mini.train_captioner import words_of

_GRAMS, _SIGMA = 4, 6.0
_BINS = 10

Grams = Counter[tuple[str, ...]]
Doubles = npt.NDArray[np.float64]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr-D (Vedantam et al. 2015) times 100, document frequencies being those of the references.

    Words are lowercase without punctuation, as the PTB tokeniser with its list of dropped marks leaves them. No stemming,
    as in the authors' and COCO's code.

    >>> round(cider(["a red car drives", "two dogs"], [["a red car drives"], ["two dogs run on grass"]]))
    625
    """
    cooked = [[_grams(text) for text in texts] for texts in references]
    frequency: Grams = Counter(chain.from_iterable(set(chain.from_iterable(texts)) for texts in cooked))
    idf = {gram: math.log(len(references)) - math.log(count) for gram, count in frequency.items()}
    unseen = math.log(len(references))
    total = 0.0
    for text, texts in zip(candidates, cooked, strict=True):
        one = _grams(text)
        total += sum(_likeness(one, other, idf, unseen) for other in texts) / len(texts)
    return 1000 * total / len(candidates)


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 (Papineni et al. 2002) of the whole corpus, times 100.

    >>> bleu(["a dog runs on grass"], [["a dog runs on grass", "a dog"]])
    100.0
    """
    right, given, length, wanted = [0] * _GRAMS, [0] * _GRAMS, 0, 0
    for text, texts in zip(candidates, references, strict=True):
        grams, most = _grams(text), Grams()
        for other in texts:
            most |= _grams(other)
        for gram, count in grams.items():
            given[len(gram) - 1] += count
            right[len(gram) - 1] += min(count, most[gram])
        size = len(metric_words(text))
        length += size
        wanted += min((len(metric_words(other)) for other in texts), key=lambda other: (abs(other - size), other))
    if not all(right):
        return 0.0
    precision = sum(math.log(hits / tries) for hits, tries in zip(right, given, strict=True)) / _GRAMS
    return 100 * math.exp(precision + min(0.0, 1 - wanted / length))


def metric_words(text: str) -> list[str]:
    """Return the words that metrics compare: possessives apart, hyphens kept.

    >>> metric_words("A man's dog .")
    ['a', 'man', "'s", 'dog']
    """
    return [part for word in words_of(text) for part in word.replace("'s", " 's").split()]


def auc(own: Doubles, other: Doubles) -> float:
    """Return the chance that a score of `own` is above one of `other`.

    >>> auc(np.array([0.4, 0.9]), np.array([0.1, 0.5]))
    0.75
    """
    below = np.searchsorted(np.sort(other), own, "left")
    tied = np.searchsorted(np.sort(other), own, "right") - below
    return float((below + tied / 2).mean() / len(other))


def reliability(own: Doubles, other: Doubles, mismatched: float) -> tuple[float, list[dict[str, Any]]]:
    """Return the expected calibration error (Guo et al. 2017) of P(match), and its table.

    `own` are the scores of matching pairs, `other` those of mismatches, which weigh `mismatched` of the whole.
    """
    scores = np.concatenate([own, other])
    weights = np.concatenate([np.full(len(own), (1 - mismatched) / len(own)), np.full(len(other), mismatched / len(other))])
    matches = np.arange(len(scores)) < len(own)
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    table, error = [], 0.0
    for number in range(_BINS):
        mine = bins == number
        share = float(weights[mine].sum())
        if share:
            said, true = (float((weights * what)[mine].sum() / share) for what in (scores, matches))
            error += share * abs(said - true)
            table.append({"from": number / _BINS, "share": round(share, 4), "said": round(said, 3), "true": round(true, 3)})
    return error, table


def recall(images: Doubles, texts: Doubles, owners: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the share of texts whose picture is among the first 1, 5, 10 by cosine; unit rows, `owners` the right ones."""
    cosines = texts @ images.T
    ranks = (cosines > cosines[np.arange(len(texts)), owners][:, None]).sum(axis=1)
    return {f"recall@{first}": round(float((ranks < first).mean()), 4) for first in (1, 5, 10)}


def _grams(text: str) -> Grams:
    words = metric_words(text)
    return Counter(tuple(words[at : at + n]) for n in range(1, _GRAMS + 1) for at in range(len(words) - n + 1))


def _likeness(one: Grams, other: Grams, idf: dict[tuple[str, ...], float], unseen: float) -> float:
    """Return the mean over n of the clipped cosines, with CIDEr-D's penalty on a difference in length."""
    total = 0.0
    lengths = [sum(count for gram, count in grams.items() if len(gram) == 1) for grams in (one, other)]
    for n in range(1, _GRAMS + 1):
        first, second = ({g: c * idf.get(g, unseen) for g, c in grams.items() if len(g) == n} for grams in (one, other))
        norms = [math.sqrt(sum(value**2 for value in vector.values())) for vector in (first, second)]
        if all(norms):
            dot = sum(min(value, second[gram]) * second[gram] for gram, value in first.items() if gram in second)
            total += dot / (norms[0] * norms[1])
    return total / _GRAMS * math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * _SIGMA**2))
