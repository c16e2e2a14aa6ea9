"""Local reparameterisation: draws the sums over a gated weight in place of its masks.

The handlers for linear layers and convolutions call it where the entry gates ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from l0func import random
from l0func.distributions.masked_moments import masked_moments
from l0func.engine.entry_gates import EntryGates
from l0func.engine.parameter import GatedParameter
from l0func.internal.below_vmap import below_vmap
from l0func.internal.context import result_dtype, without_autocast
from l0func.internal.shards import taken


def gaussian(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: GatedParameter
) -> Tensor:
    r"""A layer's pre-activations, with the first two moments of ``product(x, weight * mask)``.

    .. math:: y = \sum_i x_i w_{oi} E[z_{oi}]
        + \epsilon \sqrt{\sum_i x_i^2 w_{oi}^2 \mathrm{Var}[z_{oi}]}, \quad
        \epsilon \sim N(0, 1)

    The moments are exact. Source: Kingma, Salimans & Welling (2015), arXiv:1506.02557, Eq. 6; for
    convolutions Molchanov, Ashukha & Vetrov (2017), arXiv:1701.05369, Eq. 17. Each position in a
    row gets an independent draw.

    Args:
        product: A function that is linear in the input and in the weight: ``F.linear``, or a
            convolution.
        x: The input.
        weight: The weight, with entry gates; its scales are left to the caller.

    Returns:
        The pre-activations, shaped like ``product(x, weight)``.

    Raises:
        ValueError: The weight is used a second time in one call.
    """
    # In float32 at least: a short float holds neither the squares nor a small variance.
    dtype, wide = result_dtype(x, weight.weight)
    with without_autocast(x.device.type):
        return _drawn(product, x.to(wide), weight, weight.weight.to(wide)).to(dtype)


def _drawn(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: GatedParameter, w: Tensor
) -> Tensor:
    """The pre-activations in the dtype of ``x`` and ``w``, the input and the weight's values."""
    gates = weight.entry_gates
    assert gates is not None
    stop = gates.first + gates.log_alpha.numel()
    gates.sums.add(weight.path, gates.first, stop)
    w_mean, w_variance = below_vmap(partial(_moments, gates), gates.log_alpha, w)
    mean, variance = product(x, w_mean), product(x * x, w_variance)
    noise = _own_noise(gates, tuple(mean.shape))
    # Clamped: the square root has an infinite gradient at 0, but a sum without variance should
    # give the gradient 0.
    deviation = variance.clamp(min=torch.finfo(mean.dtype).tiny).sqrt()
    return torch.addcmul(mean, deviation, noise.to(mean.dtype))


def _own_noise(gates: EntryGates, shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws for all sums; for a part of a weight, those of its rows."""
    if gates.part is None:
        return below_vmap(partial(_noise, gates.first, shape), gates.key)[0]
    rows, whole = gates.part.own[0], gates.part.shape[0]
    noise = below_vmap(partial(_noise, 0, (*shape[:-1], whole)), gates.key)[0]
    return taken(noise, -1, range(whole), rows)


def _moments(gates: EntryGates, log_alpha: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the masked weight, for the weight's values ``w``."""
    if not gates.turned:
        return masked_moments(gates.distribution, log_alpha, w)
    mean, variance = masked_moments(gates.distribution, log_alpha, w.transpose(-2, -1))
    return mean.transpose(-2, -1), variance.transpose(-2, -1)


def _noise(first: int, shape: tuple[int, ...], key: Tensor) -> list[Tensor]:
    """Standard normal draws for the gates from number ``first`` on in a key's stream."""
    return [random.normal(random.fold_in(key, first), shape)]
