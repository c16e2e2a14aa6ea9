"""Layers over the contractions: a linear map and a convolution for one key, which vmap turns into
a batch of keys.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from l0func.engine.contraction.chunks import Contraction, Output
from l0func.engine.contraction.sweep import sweep
from l0func.engine.entry_gates import EntryGates
from l0func.internal.context import result_dtype
from l0func.kernels.unfold import Unfold


def masked_linear(x: Tensor, weight: Tensor, gates: EntryGates) -> Tensor:
    """``x @ (weight * mask).T`` for masks that are gates and forgotten.

    Args:
        x: Shape ``(*rows, I)``.
        weight: Shape ``(O, I)``.
        gates: The gates of its entries, or of its rows' leading dimensions.

    Returns:
        Shape ``(*rows, O)``.
    """
    out = weight.shape[0]
    kind, a = ("x", weight.transpose(-2, -1)) if gates.turned else ("y", weight)
    dtype, wide = result_dtype(x, weight)
    plan = _contraction(gates, (1, a.shape[0], a.shape[1]), None)
    la, a = _operands(gates, plan, a, wide)
    flat = x.reshape(1, prod(x.shape[:-1]), x.shape[-1]).to(wide)
    g, rows = (flat.unsqueeze(1), None) if kind == "x" else (None, flat)
    y = sweep(plan, Output(kind, 0), gates.key.unsqueeze(0), la, a, rows, g)
    return y.reshape(*x.shape[:-1], out).to(dtype)


def masked_convolution(x: Tensor, weight: Tensor, gates: EntryGates, unfold: Unfold) -> Tensor:
    """A convolution with ``weight * mask``.

    Args:
        x: Images, ``(N, channels, *three sizes)``.
        weight: ``(O, channels / groups, *kernel)``.
        gates: The gates of its entries, or of its planes.
        unfold: The windows.

    Returns:
        Shape ``(N, O, *windows)``.
    """
    groups, out = unfold.groups, weight.shape[0]
    dtype, wide = result_dtype(x, weight)
    plan = _contraction(gates, (groups, out // groups, prod(weight.shape[1:])), unfold)
    la, a = _operands(gates, plan, weight, wide)
    y = sweep(plan, Output("y", 0), gates.key.unsqueeze(0), la, a, x.unsqueeze(0).to(wide), None)
    # (1, G, N * windows, O / G) to (N, O, *windows)
    y = y.reshape(groups, x.shape[0], prod(unfold.windows), out // groups).permute(1, 0, 3, 2)
    return y.reshape(x.shape[0], out, *unfold.windows).to(dtype).contiguous()


def masked_transposed_convolution(
    x: Tensor, weight: Tensor, gates: EntryGates, unfold: Unfold
) -> Tensor:
    """A transposed convolution with ``weight * mask``: the slope of a convolution in its images.

    Args:
        x: ``(N, channels in, windows)``.
        weight: ``(channels in, channels out / groups, *kernel)``.
        gates: The gates of its entries, or of its planes.
        unfold: The windows of the convolution, on the output.

    Returns:
        Shape ``(N, channels out, *three sizes)``.
    """
    groups, into = unfold.groups, weight.shape[0]
    dtype, wide = result_dtype(x, weight)
    plan = _contraction(gates, (groups, into // groups, prod(weight.shape[1:])), unfold)
    la, a = _operands(gates, plan, weight, wide)
    g = x.reshape(x.shape[0], groups, into // groups, x.shape[2]).permute(1, 0, 3, 2)
    g = g.reshape(1, groups, x.shape[0] * x.shape[2], into // groups).to(wide)
    return sweep(plan, Output("x", 0), gates.key.unsqueeze(0), la, a, None, g).squeeze(0).to(dtype)


def _contraction(
    gates: EntryGates, shape: tuple[int, int, int], unfold: Unfold | None
) -> Contraction:
    repeat = prod(shape) // max(gates.log_alpha.numel(), 1) if prod(shape) else 1
    return Contraction(gates.distribution, shape, repeat, gates.first, unfold)


def _operands(
    gates: EntryGates, plan: Contraction, a: Tensor, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    return gates.log_alpha.reshape(plan.gates).to(wide), a.reshape(plan.shape).to(wide)
