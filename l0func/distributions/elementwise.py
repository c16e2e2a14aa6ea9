"""Small elementwise functions that several distributions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l0func.internal.forward_mode import in_dual_level, pushed_forward
from l0func.internal.sharding import is_dtensor
from l0func.internal.shards import on_shards
from l0func.kernels.vocabulary import clip


def rectify(y: Tensor) -> Tensor:
    """``y`` clipped to [0, 1], with derivative 0 at both ends and outside; a NaN stays."""
    return clip(y, 0.0, 1.0)


def logistic(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, the same bits at every position in a tensor."""
    # torch.sigmoid gives other last bits in the last entries of a tensor on the CPU.
    # The exponential of 89 is infinite, and the gradient would be 0 times that.
    # In place only where no gradient needs the values: autograd keeps those of exp.
    return (x.clamp(min=-85.0).neg_().exp() + 1.0).reciprocal_()


def differentiated(f: Callable[[Tensor], Any], order: int, log_alpha: Tensor) -> Any:
    """The ``order``-th derivative of an elementwise function, by nested forward mode.

    Inside ``dual_level`` it takes reverse mode: torch does not nest that in forward mode.

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
    if in_dual_level():
        return _by_reverse_mode(lower, la)
    return pushed_forward(lower, (la,), (torch.ones_like(la),))


def _by_reverse_mode(f: Callable[[Tensor], Any], la: Tensor) -> Any:
    """The derivative of an elementwise function with one result, or with a tuple of results."""
    pulled: Any = torch.func.vjp(f, la)
    results, pull = pulled
    if isinstance(results, Tensor):
        return pull(torch.ones_like(results))[0]
    slopes: list[Tensor] = []
    for i in range(len(results)):
        weights = [torch.full_like(result, float(i == j)) for j, result in enumerate(results)]
        slopes.append(pull(tuple(weights))[0])
    return tuple(slopes)


def in_float(log_alpha: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    """``evaluate`` in at least float32, with its result in the locations' dtype."""
    if is_dtensor(log_alpha):
        return on_shards(lambda la: in_float(la, evaluate), log_alpha)
    return evaluate(widened(log_alpha)).to(log_alpha.dtype)


def widened(log_alpha: Tensor) -> Tensor:
    """The locations in float64 if they are float64, else in float32."""
    # Sixteen bits are enough to hold a gate, not to compute one.
    return log_alpha if log_alpha.dtype == torch.float64 else log_alpha.to(torch.float32)
