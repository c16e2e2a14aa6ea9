"""A linear map and convolutions with masked weights, for one key.

:mod:`l0func.engine.ops` calls them. A vmap around them maps them over many keys.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from l0func.engine.contraction.sweep import sweep
from l0func.engine.entry_gates import EntryGates
from l0func.internal.context import result_dtype
from l0func.kernels.contraction import Contraction, Output
from l0func.kernels.convolution import ConvolutionSizes


def masked_linear(x: Tensor, weight: Tensor, gates: EntryGates) -> Tensor:
    """``x @ (weight * mask).T`` without the mask in memory.

    Args:
        x: Shape ``(*rows, I)``.
        weight: Shape ``(O, I)``.
        gates: Gates on its entries, or on its leading dimensions.

    Returns:
        Shape ``(*rows, O)``.
    """
    dtype, wide = result_dtype(x, weight)
    *leading, inputs_size = x.shape
    vectors = x.reshape(1, prod(leading), inputs_size).to(wide)
    # The gates lie in the order of the untransposed weight. For a transposed one, the product is
    # the contraction over the other factor: "x" from g.
    if gates.turned:
        output, a = Output("x", 0), weight.transpose(-2, -1)
        inputs, g = None, vectors
    else:
        output, a = Output("y", 0), weight
        inputs, g = vectors, None
    contraction = _contraction(gates, (a.shape[0], a.shape[1]), None)
    y = _swept(contraction, output, gates, a.to(wide), inputs, g)
    return y.reshape(*leading, weight.shape[0]).to(dtype)


def masked_convolution(
    x: Tensor, weight: Tensor, gates: EntryGates, sizes: ConvolutionSizes
) -> Tensor:
    """A convolution with ``weight * mask``.

    Args:
        x: Images, ``(N, channels, *three sizes)``.
        weight: ``(O, channels / groups, *kernel)``.
        gates: Gates on its entries, or on its planes.
        sizes: The convolution's sizes.

    Returns:
        Shape ``(N, O, *windows)``.
    """
    dtype, wide = result_dtype(x, weight)
    contraction = _of_convolution(gates, weight, sizes)
    inputs = x.unsqueeze(0).to(wide)
    y = _swept(contraction, Output("y", 0), gates, weight.to(wide), inputs, None)
    return y.squeeze(0).to(dtype)


def masked_transposed_convolution(
    x: Tensor, weight: Tensor, gates: EntryGates, sizes: ConvolutionSizes
) -> Tensor:
    """A transposed convolution with ``weight * mask``: the adjoint of a convolution.

    Args:
        x: ``(N, channels in, *windows)``.
        weight: ``(channels in, channels out / groups, *kernel)``.
        gates: Gates on its entries, or on its planes.
        sizes: The convolution's sizes; its windows lie on the output.

    Returns:
        Shape ``(N, channels out, *three sizes)``.
    """
    dtype, wide = result_dtype(x, weight)
    contraction = _of_convolution(gates, weight, sizes)
    g = x.unsqueeze(0).to(wide)
    y = _swept(contraction, Output("x", 0), gates, weight.to(wide), None, g)
    return y.squeeze(0).to(dtype)


def _of_convolution(gates: EntryGates, weight: Tensor, sizes: ConvolutionSizes) -> Contraction:
    out, *window = weight.shape
    return _contraction(gates, (out, prod(window)), sizes)


def _contraction(
    gates: EntryGates, shape: tuple[int, int], sizes: ConvolutionSizes | None
) -> Contraction:
    entries, count = prod(shape), gates.log_alpha.numel()
    # Entries for each gate; an empty weight has none to count.
    repeat = entries // max(count, 1) if entries else 1
    lines = None if gates.part is None else gates.part.lines
    first, step = (gates.first, 0) if lines is None else lines
    # Lines that follow each other are one run, which every kernel draws fastest.
    step = 0 if step * repeat == shape[1] else step
    return Contraction(gates.distribution, shape, repeat, first, sizes, step=step)


def _swept(
    contraction: Contraction,
    output: Output,
    gates: EntryGates,
    a: Tensor,
    x: Tensor | None,
    g: Tensor | None,
) -> Tensor:
    """The contraction for the gates' own key, in the dtype of ``a``."""
    log_alpha = gates.log_alpha.reshape(contraction.gates).to(a.dtype)
    keys = gates.key.unsqueeze(0)
    return sweep(contraction, output, keys, log_alpha, a.reshape(contraction.shape), x, g)
