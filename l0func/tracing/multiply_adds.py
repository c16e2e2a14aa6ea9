"""Multiply-adds in one operation, by shapes alone.

A product between two parameters, between constants of forward, or in an operation that is not
followed costs as much as any other; no transfer function counts it.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from l0func.tracing.call import Call

# For each product the place of its left factor among the arguments: a bias may come first.
_LEFT_FACTORS = {
    **dict.fromkeys("mm bmm mv dot vdot linear _scaled_mm _int_mm _grouped_mm".split(), 0),
    **dict.fromkeys("addmm baddbmm addmv addbmm".split(), 1),
}
_CONVOLUTIONS = ("convolution", "_convolution")


def multiply_adds(call: Call) -> int:
    """The multiply-adds in a call; 0 if it is no product."""
    name = call.name.removesuffix("_")
    if not call.outputs:
        return 0
    if name in _CONVOLUTIONS:
        return _of_kernel(call)
    if name not in _LEFT_FACTORS:
        return 0
    left: Tensor = call.args[_LEFT_FACTORS[name]]
    # Every entry of the output is a sum over the left factor's last dimension.
    terms = prod((left.shape[0], left.shape[2])) if name == "addbmm" else left.shape[-1]
    return call.outputs[0].numel() * terms


def _of_kernel(call: Call) -> int:
    """Every place in every image, times the kernel's entries."""
    x, kernel = call.args[:2]
    placed: Tensor = x if call.args[6] else call.outputs[0]
    return placed.shape[0] * prod(placed.shape[2:]) * kernel.numel()
