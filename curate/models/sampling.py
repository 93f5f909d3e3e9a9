"""The next token of a caption, from logits: shared by all captioners. Runs on the device, without synchronising with it."""

from __future__ import annotations

from typing import Any

from curate.models.protocols import Sampling


def next_tokens(sampling: Sampling, logits: Any, before: Any, draws: Any) -> Any:
    """Return int64 [rows]: the token that each row's draw picks.

    `logits` float [rows, words] with -inf for tokens that are not allowed, `before` int64 [rows, length], the tokens so far,
    `draws` float [rows], uniform in [0, 1). The steps and their order are those of the library that BLIP's authors ran: CTRL's
    penalty (Keskar et al. 2019), the `top_k` most likely tokens, the nucleus (Holtzman et al. 2020) of these. A draw is a place
    in the nucleus, with the most likely token first, and equally likely ones by their number.
    """
    import torch

    logits, penalty = logits.float(), sampling.repetition_penalty
    again = logits.gather(1, before)
    penalised = logits.scatter(1, before, torch.where(again > 0, again / penalty, again * penalty))
    scores, tokens = _ranked(penalised, sampling.top_k)
    chances = torch.softmax(scores.double(), -1)
    before = chances.cumsum(-1) - chances
    chances = chances.masked_fill(before >= sampling.top_p, 0.0)  # the tokens before it already hold top_p
    sums = chances.cumsum(-1)
    places = (sums <= draws[:, None].double() * sums[:, -1:]).sum(-1)
    last = (chances > 0).sum(-1) - 1  # a draw close to 1 can be rounded past the end
    return tokens.gather(1, torch.minimum(places, last)[:, None])[:, 0]


def _ranked(scores: Any, top_k: int) -> tuple[Any, Any]:
    """Return scores, largest first, and their tokens: the `top_k` largest of each row, or all where that is 0."""
    import torch

    if not top_k or top_k >= scores.shape[1]:
        found: tuple[Any, Any] = torch.sort(scores, dim=-1, descending=True, stable=True)
        return found
    values, tokens = torch.topk(scores, top_k, dim=-1)
    tokens, order = tokens.sort(dim=-1)  # topk does not define the order of equal scores
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, tokens.gather(1, order)
