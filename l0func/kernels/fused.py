"""Draws of gates without a formula, fused by torch's compiler: for the distributions of users.

One compilation for each distribution, set of orders and dtype serves all shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import untyped
from l0func.kernels.contraction import Distribution

SIZE = 1 << 16
"""The draws in one call; the last ones may be padding."""

COMPILED_DRAWS = 64
"""The compiled draws that stay: a network that anneals a setting compiles one for each value."""


class _Compiler:
    """Whether torch's compiler works on this machine."""

    def __init__(self) -> None:
        self.works = True


_COMPILER = _Compiler()


class _FusedDraw:
    """A distribution's draw, compiled, and whether the compiler follows it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self.works = True


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
    fused, failure = _compiled(distribution, tuple(orders)), None
    if _COMPILER.works and fused.works:
        try:
            return _in_pieces(fused.call, u, log_alpha, len(orders))
        except Exception as error:
            failure = error
    # An error in the user's formula comes out of this call, with the user's line.
    values = distribution.derivatives(u, log_alpha, orders)
    if failure is not None:
        _give_up(distribution, fused, failure, u.device)
    return values


def _in_pieces(
    fused: Callable[..., Any], u: Tensor, log_alpha: Tensor, results: int
) -> list[Tensor]:
    """The function's results, by calls with one fixed size."""
    number = u.numel()
    missing = -number % SIZE
    all_u = torch.cat((u.flatten(), u.new_full((missing,), 0.5)))
    locations = log_alpha.expand(u.shape).flatten()
    locations = torch.cat((locations, locations.new_zeros(missing)))
    found = u.new_empty(results, number + missing)
    for start in range(0, number, SIZE):
        piece = slice(start, start + SIZE)
        for into, values in zip(found, fused(all_u[piece], locations[piece]), strict=True):
            into[piece] = values
    return [values[:number].reshape(u.shape) for values in found]


@lru_cache(maxsize=COMPILED_DRAWS)
def _compiled(distribution: Distribution, orders: tuple[int, ...]) -> _FusedDraw:
    # torch's compiler counts recompilations by code object, and after a few it stops; so each
    # distribution has one of its own.
    name = f"fused_{next(_NUMBERS)}"

    def fused(u: Tensor, log_alpha: Tensor) -> list[Tensor]:
        return distribution.derivatives(u, log_alpha, orders)

    code = fused.__code__.replace(co_name=name)
    own = FunctionType(code, fused.__globals__, name, None, fused.__closure__)
    return _FusedDraw(untyped.compile(own, dynamic=False, fullgraph=True))


_NUMBERS = count()


def _give_up(
    distribution: Distribution, fused: _FusedDraw, error: Exception, device: torch.device
) -> None:
    """Draw by single operations from now on: these gates, or all if the compiler is broken."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else repr(error)
    if _compiles_a_sum(device):
        fused.works = False
        text = (
            f"torch's compiler does not follow the draw of {distribution}, so these gates are "
            f"drawn by single operations: {reason}"
        )
    else:
        _COMPILER.works = False
        text = (
            f"torch's compiler does not build gates on this machine, so they are drawn by single "
            f"operations: {reason}. It needs a C++ compiler; l0func.use_kernel('eager') chooses "
            "without this warning."
        )
    warnings.warn(text, stacklevel=2)


def _compiles_a_sum(device: torch.device) -> bool:
    """Whether torch's compiler builds a function in which nothing can be wrong."""
    number = torch.zeros(2, device=device)
    try:
        untyped.compile(_doubled, fullgraph=True)(number)
    except Exception:
        return False
    return True


def _doubled(x: Tensor) -> Tensor:
    return x + x
