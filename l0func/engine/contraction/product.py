"""A linear map and convolutions with masked weights, for one key.

:mod:`l0func.engine.ops` calls them. A vmap around them maps them over many keys.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from l0func.engine.contraction.chunks import Contraction, Output
from l0func.engine.contraction.sweep import sweep
from l0func.engine.entry_gates import EntryGates
from l0func.internal.context import result_dtype
from l0func.kernels.unfold import Unfold


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
        inputs, g = None, vectors.unsqueeze(1)
    else:
        output, a = Output("y", 0), weight
        inputs, g = vectors, None
    contraction = _contraction(gates, (1, a.shape[0], a.shape[1]), None)
    y = _swept(contraction, output, gates, a.to(wide), inputs, g)
    return y.reshape(*leading, weight.shape[0]).to(dtype)


def masked_convolution(x: Tensor, weight: Tensor, gates: EntryGates, unfold: Unfold) -> Tensor:
    """A convolution with ``weight * mask``.

    Args:
        x: Images, ``(N, channels, *three sizes)``.
        weight: ``(O, channels / groups, *kernel)``.
        gates: Gates on its entries, or on its planes.
        unfold: The windows.

    Returns:
        Shape ``(N, O, *windows)``.
    """
    dtype, wide = result_dtype(x, weight)
    images, out, windows = x.shape[0], weight.shape[0], unfold.windows
    contraction = _convolution_sizes(gates, weight, unfold)
    inputs = x.unsqueeze(0).to(wide)
    y = _swept(contraction, Output("y", 0), gates, weight.to(wide), inputs, None)
    # (1, G, N * windows, O / G) to (N, O, *windows)
    by_image = y.reshape(unfold.groups, images, prod(windows), out // unfold.groups)
    in_order = by_image.permute(1, 0, 3, 2).reshape(images, out, *windows)
    return in_order.to(dtype).contiguous()


def masked_transposed_convolution(
    x: Tensor, weight: Tensor, gates: EntryGates, unfold: Unfold
) -> Tensor:
    """A transposed convolution with ``weight * mask``: the adjoint of a convolution.

    Args:
        x: ``(N, channels in, windows)``.
        weight: ``(channels in, channels out / groups, *kernel)``.
        gates: Gates on its entries, or on its planes.
        unfold: The convolution's windows, on the output.

    Returns:
        Shape ``(N, channels out, *three sizes)``.
    """
    dtype, wide = result_dtype(x, weight)
    images, channels, windows = x.shape
    contraction = _convolution_sizes(gates, weight, unfold)
    # (N, O, windows) to (1, G, N * windows, O / G)
    by_group = x.reshape(images, unfold.groups, channels // unfold.groups, windows)
    g = by_group.permute(1, 0, 3, 2).flatten(1, 2).unsqueeze(0).to(wide)
    y = _swept(contraction, Output("x", 0), gates, weight.to(wide), None, g)
    return y.squeeze(0).to(dtype)


def _convolution_sizes(gates: EntryGates, weight: Tensor, unfold: Unfold) -> Contraction:
    out, *window = weight.shape
    shape = unfold.groups, out // unfold.groups, prod(window)
    return _contraction(gates, shape, unfold)


def _contraction(
    gates: EntryGates, shape: tuple[int, int, int], unfold: Unfold | None
) -> Contraction:
    entries, count = prod(shape), gates.log_alpha.numel()
    # Entries for each gate; an empty weight has none to count.
    repeat = entries // max(count, 1) if entries else 1
    return Contraction(gates.distribution, shape, repeat, gates.first, unfold)


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
