"""Draws of categories from a key, with and without replacement."""

from __future__ import annotations

from torch import Tensor

from l0func import random
from l0func.internal.context import known_values
from l0func.internal.untyped import loose


def multinomial(key: Tensor, weights: Tensor, count: int, replacement: bool) -> Tensor:
    """Categories with probabilities proportional to weights.

    Without replacement, the largest sums of log weight and Gumbel noise are the categories in the
    order of drawing.

    Source: Efraimidis & Spirakis (2006), "Weighted random sampling with a reservoir".

    Args:
        key: A key, shape ``(2,)``.
        weights: Not negative, shape ``(*batch, categories)``; at least ``count`` are positive
            without replacement.
        count: The number of draws.
        replacement: Whether a category may come again.

    Returns:
        int64, shape ``(*batch, count)``.

    Raises:
        ValueError: There are too few categories.
    """
    categories = weights.shape[-1]
    if not replacement and count > categories:
        raise ValueError(
            "torch function 'multinomial' draws without replacement at most as many as there are "
            f"categories; got num_samples={count} for {categories}."
        )
    _check_weights(weights, 1 if replacement else count)
    log_weights = weights.detach().double().log()
    batch = tuple(weights.shape[:-1])
    if replacement:
        noise = _gumbel(key, (*batch, count, categories)).to(weights.device)
        return (log_weights.unsqueeze(-2) + noise).argmax(-1)
    noise = _gumbel(key, (*batch, categories)).to(weights.device)
    return (log_weights + noise).topk(count, -1).indices


def _gumbel(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    u = random.uniform(key, shape).double()
    return -(-u.log()).log()


def _check_weights(weights: Tensor, needed: int) -> None:
    """Refuse negative weights and too few positive ones, where values can be known."""
    own = weights.detach()
    if known_values(own.reshape(-1)[:0]) is None:
        return
    is_valid = bool(loose((own >= 0).all() & own.isfinite().all()))
    if not is_valid or int(loose((own > 0).sum(-1).min())) < needed:
        raise ValueError(
            "torch function 'multinomial' takes finite weights that are not negative, at least "
            f"{needed} of them positive in each row; got {own}."
        )
