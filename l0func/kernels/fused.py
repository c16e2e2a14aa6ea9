"""Draws of gates without a formula, fused by torch's compiler: for the distributions of users.

One compilation for each distribution, set of orders and dtype serves all shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import untyped
from l0func.kernels.contraction import Distribution

SIZE = 1 << 16
"""The draws in one call; the last ones may be padding."""


class _Compiler:
    """Whether torch's compiler works on this machine."""

    def __init__(self) -> None:
        self.works = True


_COMPILER = _Compiler()


def fused_derivatives(
    distribution: Distribution, u: Tensor, log_alpha: Tensor, orders: Sequence[int]
) -> list[Tensor]:
    """``distribution.derivatives(u, log_alpha, orders)`` in one pass over memory.

    Args:
        distribution: A distribution; equal ones share a compilation.
        u: Probabilities in (0, 1), shape ``(b, N)``.
        log_alpha: Locations, shape ``(N,)``.
        orders: The orders to compute.
    """
    if _COMPILER.works:
        try:
            return _in_pieces(_compiled(distribution, tuple(orders)), u, log_alpha, len(orders))
        except Exception as error:
            _give_up(error)
    return distribution.derivatives(u, log_alpha, orders)


def _in_pieces(
    fused: Callable[..., Any], u: Tensor, log_alpha: Tensor, results: int
) -> list[Tensor]:
    """The function's results, by calls with one fixed size."""
    count = u.numel()
    missing = -count % SIZE
    all_u = torch.cat((u.flatten(), u.new_full((missing,), 0.5)))
    locations = log_alpha.expand(u.shape).flatten()
    locations = torch.cat((locations, locations.new_zeros(missing)))
    found = u.new_empty(results, count + missing)
    for start in range(0, count, SIZE):
        piece = slice(start, start + SIZE)
        for into, values in zip(found, fused(all_u[piece], locations[piece]), strict=True):
            into[piece] = values
    return [values[:count].reshape(u.shape) for values in found]


@cache
def _compiled(distribution: Distribution, orders: tuple[int, ...]) -> Callable[..., Any]:
    # torch's compiler counts recompilations by code object, and after a few it stops; so each
    # distribution has one of its own.
    name = f"fused_{_compiled.cache_info().currsize}"

    def fused(u: Tensor, log_alpha: Tensor) -> list[Tensor]:
        return distribution.derivatives(u, log_alpha, orders)

    code = fused.__code__.replace(co_name=name)
    own = FunctionType(code, fused.__globals__, name, None, fused.__closure__)
    return untyped.compile(own, dynamic=False, fullgraph=True)


def _give_up(error: Exception) -> None:
    """Draw by single operations from now on."""
    _COMPILER.works = False
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else repr(error)
    warnings.warn(
        f"torch's compiler does not build gates on this machine, so they are drawn by single "
        f"operations: {reason}. It needs a C++ compiler; l0func.use_kernel('eager') chooses "
        "without this warning.",
        stacklevel=2,
    )
