"""Small elementwise functions that several distributions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def rectify(y: Tensor) -> Tensor:
    """``y`` clipped to [0, 1], with derivative 0 at both ends and outside."""
    # torch.clamp passes the gradient of a draw that lands exactly on 0 or 1.
    inside = (y > 0) & (y < 1)
    return torch.where(inside, y, (y >= 1).to(y.dtype))


def differentiated(f: Callable[[Tensor], Any], order: int, log_alpha: Tensor) -> Any:
    """The ``order``-th derivative of an elementwise function, by nested forward mode.

    Args:
        f: The function; each entry in its results depends on one location.
        order: How many times to differentiate; 0 evaluates the function.
        log_alpha: Locations.
    """
    if order == 0:
        return f(log_alpha)

    def lower(la: Tensor) -> Any:
        return differentiated(f, order - 1, la)

    la = log_alpha.contiguous()
    return torch.func.jvp(lower, (la,), (torch.ones_like(la),))[1]


def in_float(log_alpha: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    """``evaluate`` in at least float32, with its result in the locations' dtype."""
    return evaluate(widened(log_alpha)).to(log_alpha.dtype)


def widened(log_alpha: Tensor) -> Tensor:
    """The locations in float64 if they are float64, else in float32."""
    # Sixteen bits are enough to hold a gate, not to compute one.
    return log_alpha if log_alpha.dtype == torch.float64 else log_alpha.to(torch.float32)
