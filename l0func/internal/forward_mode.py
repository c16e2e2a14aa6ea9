"""Forward-mode derivatives for autograd functions, in distributions and the contraction."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.internal.turns import turns

_forward_ad: Any = import_module("torch.autograd.forward_ad")


_eager_transforms: Any = import_module("torch._functorch.eager_transforms")

# torch numbers the levels of forward mode for the whole process: a thread that ends one would end
# that of another thread.
_ONE_THREAD = turns()


def pushed_forward(
    function: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Any:
    """The directional derivative of ``torch.func.jvp``, for one thread after another."""
    if compiling():
        # A graph has no threads, and no locks.
        return torch.func.jvp(function, primals, tangents)[1]
    with _ONE_THREAD:
        return torch.func.jvp(function, primals, tangents)[1]


def in_dual_level() -> bool:
    """Whether ``torch.autograd.forward_ad.dual_level`` is open, where torch.func.jvp fails."""
    # torch.func.jvp opens a dual level too, the outermost one, and counts its own nesting.
    return _forward_ad._current_level >= 0 and _eager_transforms.JVP_NESTING == 0


def forward_rule(derive: Callable[..., Any], /) -> Any:
    """Make a ``jvp`` for an autograd.Function that can itself be differentiated.

    torch switches forward mode off while a ``jvp`` runs, so a second derivative silently
    becomes 0. This ``jvp`` switches it on again.

    Args:
        derive: ``derive(ctx, saved tensors, *tangents)``; it returns the outputs' tangents.

    Returns:
        A static method, to be assigned to ``jvp`` in the class.
    """

    def jvp(ctx: Any, *tangents: Any) -> Any:
        with _forward_ad._set_fwd_grad_enabled(True):
            saved = [_primal(tensor) for tensor in ctx.saved_tensors]
            own_tangents = [_primal(tangent) for tangent in tangents]
            return derive(ctx, saved, *own_tangents)

    return staticmethod(jvp)


def _primal(tensor: Any) -> Any:
    return _forward_ad.unpack_dual(tensor).primal if isinstance(tensor, Tensor) else tensor
