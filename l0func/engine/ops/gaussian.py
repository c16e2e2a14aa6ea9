"""Local reparameterisation: the sum over a gated weight's entries gates from the Gaussian with its
two moments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l0func import random
from l0func.engine.parameter import GatedParameter


def gaussian(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: GatedParameter
) -> Tensor:
    r"""A layer's pre-activations, with the exact first two moments of ``product(x, weight *
    mask)``.

    .. math:: y = \sum_i x_i w_{oi} E[z_{oi}] + \epsilon \sqrt{\sum_i x_i^2 w_{oi}^2 \mathrm{Var}[z_{oi}]}, \quad
        \epsilon \sim N(0, 1)

    Source: Kingma, Salimans & Welling (2015), arXiv:1506.02557, Eq. 6; for convolutions Molchanov,
    Ashukha & Vetrov (2017), arXiv:1701.05369, Eq. 17. Positions of a row get independent draws.

    Args:
        product: Bilinear in the input and the weight: ``F.linear``, or a convolution.
        x: The input.
        weight: The weight; scales broadcast_along its dimensions are not applied.

    Returns:
        What ``product`` returns.

    Raises:
        ValueError: The weight is used a second time in one call.
    """
    gates = weight.entry_gates
    assert gates is not None
    assert gates.uses is not None
    rows = (gates.first, gates.first + gates.log_alpha.numel())
    if any(rows[0] < stop and start < rows[1] for start, stop in gates.uses):
        raise ValueError(
            f"{weight.path!r} is used twice in one call (time steps, or tied layers), and local "
            f"reparameterisation would draw "
            "its gates anew for each use. Use sampling='exact', or gate its rows or columns."
        )
    gates.uses.append(rows)
    la = gates.log_alpha.transpose(-2, -1) if gates.turned else gates.log_alpha
    mean, variance = gates.distribution.mean_and_variance(la)
    w = weight.weight
    y = product(x, w * mean.to(w.dtype))
    spread = product(x * x, w * w * variance.to(w.dtype))
    noise = random.normal(random.fold_in(gates.key, gates.first), tuple(y.shape)).to(y.dtype)
    # Clamped: the gradient of a square root at 0 is infinite, and that of a sum without variance
    # is 0.
    return y + spread.clamp(min=torch.finfo(y.dtype).tiny).sqrt() * noise
