"""Convolutions with a gated kernel: gates on its channels scale inputs or outputs, gates on its
entries meet in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction import product
from l0func.engine.ops.gaussian import gaussian
from l0func.engine.parameter import GatedParameter, broadcast_along, dense
from l0func.kernels.unfold import Unfold

Convolve = Callable[..., Tensor]


def _conv(dims: int, plain: Convolve) -> Callable[..., Any]:
    def rule(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        def whole(x: Tensor, w: Tensor) -> Tensor:
            return plain(x, w, None, stride, padding, dilation, groups)

        def by_entries(x: Tensor) -> Tensor:
            return _by_entries(
                x, weight, dims, _sizes(stride, dims), padding, _sizes(dilation, dims), groups
            )

        return _gated(dims, (1, groups), (0, 1), input, weight, bias, whole, by_entries)

    return rule


def _transposed(dims: int, plain: Convolve) -> Callable[..., Any]:
    def rule(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        def whole(x: Tensor, w: Tensor) -> Tensor:
            return plain(x, w, None, stride, padding, output_padding, groups, dilation)

        def by_entries(x: Tensor) -> Tensor:
            steps, around, extra, apart = (
                _sizes(setting, dims) for setting in (stride, padding, output_padding, dilation)
            )
            return _transposed_by_entries(x, weight, dims, steps, around, extra, apart, groups)

        return _gated(dims, (0, 1), (1, groups), input, weight, bias, whole, by_entries)

    return rule


Side = tuple[int, int]
"""A dimension of the weight, and how often its scales repeat over the channels on that side."""


def _gated(
    dims: int,
    enter: Side,
    leave: Side,
    input: Any,
    weight: Any,
    bias: Any,
    whole: Convolve,
    by_entries: Convolve,
) -> Any:
    """A convolution with what gates its channels multiplied in on either side."""
    if (
        not isinstance(weight, GatedParameter)
        or isinstance(input, GatedParameter)
        or _inner(weight)
    ):
        return NotImplemented
    x = _scaled(input, weight.scales[enter[0]], enter[1], dims)
    if weight.entry_gates is None:
        y = whole(x, weight.weight)
    elif weight.entry_gates.uses is not None:
        y = gaussian(whole, x, weight)
    else:
        y = by_entries(x)
    if y is NotImplemented:
        return y
    y = _scaled(y, weight.scales[leave[0]], leave[1], dims)
    return y if bias is None else y + broadcast_along(dense(bias), 0, dims + 1)


def _inner(weight: GatedParameter) -> bool:
    """Whether a position of the window has gates of its own, which no scaling of inputs or outputs
    expresses.
    """
    return any(scale is not None for scale in weight.scales[2:])


def _scaled(x: Tensor, scale: Tensor | None, groups: int, dims: int) -> Tensor:
    return x if scale is None else x * broadcast_along(scale.repeat(groups), 0, dims + 1)


def _by_entries(
    x: Tensor,
    weight: GatedParameter,
    dims: int,
    stride: list[int],
    padding: Any,
    dilation: list[int],
    groups: int,
) -> Tensor:
    assert weight.entry_gates is not None
    kernel = list(weight.shape[2:])
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        x = F.pad(x, [side for n in reversed(total) for side in (n // 2, n - n // 2)])
    around = [0] * dims if isinstance(padding, str) else _sizes(padding, dims)
    images = x if x.dim() == dims + 2 else x.unsqueeze(0)
    unfold = _unfold(images.shape[1], images.shape[2:], kernel, stride, around, dilation, groups)
    images = images.reshape(*images.shape[:2], *unfold.space)
    y = product.masked_convolution(images, weight.weight, weight.entry_gates, unfold)
    y = y.reshape(*y.shape[:2], *unfold.windows[3 - dims :])
    return y if x.dim() == dims + 2 else y.squeeze(0)


def _transposed_by_entries(
    x: Tensor,
    weight: GatedParameter,
    dims: int,
    stride: list[int],
    padding: list[int],
    extra: list[int],
    dilation: list[int],
    groups: int,
) -> Any:
    assert weight.entry_gates is not None
    windows, kernel = list(x.shape[x.dim() - dims :]), list(weight.shape[2:])
    settings = zip(windows, stride, padding, extra, dilation, kernel, strict=True)
    space = [(n - 1) * s - 2 * p + e + d * (k - 1) + 1 for n, s, p, e, d, k in settings]
    unfold = _unfold(weight.shape[1] * groups, space, kernel, stride, padding, dilation, groups)
    if list(unfold.windows[3 - dims :]) != windows:
        # An output padding beyond the stride: the convolution that this is the adjoint of has more
        # windows.
        return NotImplemented
    values = x if x.dim() == dims + 2 else x.unsqueeze(0)
    y = product.masked_transposed_convolution(
        values.flatten(2), weight.weight, weight.entry_gates, unfold
    )
    y = y.reshape(*y.shape[:2], *space)
    return y if x.dim() == dims + 2 else y.squeeze(0)


def _unfold(
    channels: int,
    space: Sequence[int],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Unfold:
    sizes = (_three(kernel, 1), _three(stride, 1), _three(padding, 0), _three(dilation, 1))
    return Unfold(channels, _three(space, 1), *sizes, groups)


def _three(sizes: Sequence[int], missing: int) -> tuple[int, int, int]:
    depth, height, width = [missing] * (3 - len(sizes)) + list(sizes)
    return depth, height, width


def _sizes(value: Any, dims: int) -> list[int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * dims if len(sizes) == 1 else sizes


HANDLERS: dict[Any, Callable[..., Any]] = {
    torch.conv1d: _conv(1, torch.conv1d),
    torch.conv2d: _conv(2, torch.conv2d),
    torch.conv3d: _conv(3, torch.conv3d),
    torch.conv_transpose1d: _transposed(1, torch.conv_transpose1d),
    torch.conv_transpose2d: _transposed(2, torch.conv_transpose2d),
    torch.conv_transpose3d: _transposed(3, torch.conv_transpose3d),
}
