"""Layers over the contractions: a linear map and a convolution for one key, which vmap turns into
a batch of keys.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from l0func.engine.contraction.chunks import Output, Plan
from l0func.engine.contraction.sweep import sweep
from l0func.engine.parameter import Drawn
from l0func.internal.context import result_dtype
from l0func.kernels.unfold import Unfold


def linear(x: Tensor, weight: Tensor, drawn: Drawn) -> Tensor:
    """``x @ (weight * mask).T`` for masks that are drawn and forgotten.

    Args:
        x: Shape ``(*rows, I)``.
        weight: Shape ``(O, I)``.
        drawn: The gates of its entries, or of its rows' leading dimensions.

    Returns:
        Shape ``(*rows, O)``.
    """
    out = weight.shape[0]
    kind, a = ("x", weight.transpose(-2, -1)) if drawn.turned else ("y", weight)
    dtype, wide = result_dtype(x, weight)
    plan = _plan(drawn, (1, a.shape[0], a.shape[1]), None)
    la, a = _laid_out(drawn, plan, a, wide)
    flat = x.reshape(1, prod(x.shape[:-1]), x.shape[-1]).to(wide)
    g, rows = (flat.unsqueeze(1), None) if kind == "x" else (None, flat)
    y = sweep(plan, Output(kind, 0), drawn.key.unsqueeze(0), la, a, rows, g)
    return y.reshape(*x.shape[:-1], out).to(dtype)


def convolution(x: Tensor, weight: Tensor, drawn: Drawn, unfold: Unfold) -> Tensor:
    """A convolution with ``weight * mask``.

    Args:
        x: Images, ``(N, channels, *three sizes)``.
        weight: ``(O, channels / groups, *kernel)``.
        drawn: The gates of its entries, or of its planes.
        unfold: The windows.

    Returns:
        Shape ``(N, O, *windows)``.
    """
    groups, out = unfold.groups, weight.shape[0]
    dtype, wide = result_dtype(x, weight)
    plan = _plan(drawn, (groups, out // groups, prod(weight.shape[1:])), unfold)
    la, a = _laid_out(drawn, plan, weight, wide)
    y = sweep(plan, Output("y", 0), drawn.key.unsqueeze(0), la, a, x.unsqueeze(0).to(wide), None)
    # (1, G, N * windows, O / G) to (N, O, *windows)
    y = y.reshape(groups, x.shape[0], prod(unfold.windows), out // groups).permute(1, 0, 3, 2)
    return y.reshape(x.shape[0], out, *unfold.windows).to(dtype).contiguous()


def transposed_convolution(x: Tensor, weight: Tensor, drawn: Drawn, unfold: Unfold) -> Tensor:
    """A transposed convolution with ``weight * mask``: the slope of a convolution in its images.

    Args:
        x: ``(N, channels in, windows)``.
        weight: ``(channels in, channels out / groups, *kernel)``.
        drawn: The gates of its entries, or of its planes.
        unfold: The windows of the convolution, on the output.

    Returns:
        Shape ``(N, channels out, *three sizes)``.
    """
    groups, into = unfold.groups, weight.shape[0]
    dtype, wide = result_dtype(x, weight)
    plan = _plan(drawn, (groups, into // groups, prod(weight.shape[1:])), unfold)
    la, a = _laid_out(drawn, plan, weight, wide)
    g = x.reshape(x.shape[0], groups, into // groups, x.shape[2]).permute(1, 0, 3, 2)
    g = g.reshape(1, groups, x.shape[0] * x.shape[2], into // groups).to(wide)
    return sweep(plan, Output("x", 0), drawn.key.unsqueeze(0), la, a, None, g).squeeze(0).to(dtype)


def _plan(drawn: Drawn, shape: tuple[int, int, int], unfold: Unfold | None) -> Plan:
    repeat = prod(shape) // max(drawn.log_alpha.numel(), 1) if prod(shape) else 1
    return Plan(drawn.distribution, shape, repeat, drawn.first, unfold)


def _laid_out(drawn: Drawn, plan: Plan, a: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    return drawn.log_alpha.reshape(plan.gates).to(wide), a.reshape(plan.shape).to(wide)
