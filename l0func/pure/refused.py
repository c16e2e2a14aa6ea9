"""Handlers for torch functions that a pure function may not call; ``Keyed`` uses them.

Some draw from the global generator, and a lookup with ``max_norm`` rewrites its weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from l0func.internal.interception import Interception, function_name
from l0func.internal.source_line import calling_line
from l0func.pure.signature import Signature


def _refuse_global_draw(mode: Interception, func: Any, /, *args: Any, **named: Any) -> Any:
    raise ValueError(
        f"{function_name(func)} draws from the global generator{calling_line()}, which a pure "
        "function may not. Write it with torch.rand_like or torch.bernoulli, which draw from the "
        "key inside l0func.gated, or pass the draw in as an input."
    )


def _refuse_max_norm(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """A handler for a lookup: it refuses max_norm and passes everything else on."""
    signature = Signature.of(lookup)

    def handler(mode: Interception, func: Any, /, *args: Any, **named: Any) -> Any:
        max_norm = signature.bind(args, named)["max_norm"]
        if max_norm is not None:
            raise ValueError(
                f"{function_name(func)} with max_norm={max_norm} rewrites its weight"
                f"{calling_line()}, which a pure function may not. Leave it out, and renormalise "
                "the parameter between steps if you need to."
            )
        return func(*args, **named)

    return handler


_TORCH_FUNCTIONS = (
    "poisson",
    "binomial",
    "native_dropout",
    "_fused_dropout",
    "_standard_gamma",
    "_sample_dirichlet",
)
_POOLINGS = (
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
)
_GLOBAL_DRAWS: list[Any] = [
    *[getattr(torch, name) for name in _TORCH_FUNCTIONS],
    *[getattr(F, name) for name in _POOLINGS],
    # A layer that forward makes anew begins with it.
    nn.init.kaiming_uniform_,
]
REFUSED_HANDLERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_GLOBAL_DRAWS, _refuse_global_draw),
    F.embedding: _refuse_max_norm(F.embedding),
    F.embedding_bag: _refuse_max_norm(F.embedding_bag),
}
