"""Convolutions with a gated kernel: gates on its channels scale inputs or outputs, gates on its entries meet in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.kernels import product
from l0func.kernels.unfold import Unfold
from l0func.ops.gaussian import gaussian
from l0func.parameter import GatedParameter, along, dense


def _conv(dims: int, plain: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if not isinstance(weight, GatedParameter) or isinstance(input, GatedParameter) or _inner(weight):
            return NotImplemented
        x = _scaled(input, weight.scales[1], groups, dims)
        if weight.drawn is None:
            y = plain(x, weight.weight, None, stride, padding, dilation, groups)
        elif weight.drawn.uses is not None:
            y = gaussian(lambda x, w: plain(x, w, None, stride, padding, dilation, groups), x, weight)
        else:
            y = _by_entries(x, weight, dims, _sizes(stride, dims), padding, _sizes(dilation, dims), groups)
        return _biased(_scaled(y, weight.scales[0], 1, dims), bias, dims)

    return rule


def _transposed(dims: int, plain: Callable[..., Tensor]) -> Callable[..., Any]:
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
        if not isinstance(weight, GatedParameter) or isinstance(input, GatedParameter) or _inner(weight):
            return NotImplemented
        x = _scaled(input, weight.scales[0], 1, dims)
        if weight.drawn is None:
            y = plain(x, weight.weight, None, stride, padding, output_padding, groups, dilation)
        elif weight.drawn.uses is not None:
            y = gaussian(lambda x, w: plain(x, w, None, stride, padding, output_padding, groups, dilation), x, weight)
        else:
            return NotImplemented
        return _biased(_scaled(y, weight.scales[1], groups, dims), bias, dims)

    return rule


def _inner(weight: GatedParameter) -> bool:
    """Whether a position of the window has gates of its own, which no scaling of inputs or outputs expresses."""
    return any(scale is not None for scale in weight.scales[2:])


def _scaled(x: Tensor, scale: Tensor | None, groups: int, dims: int) -> Tensor:
    return x if scale is None else x * along(scale.repeat(groups), 0, dims + 1)


def _biased(y: Tensor, bias: Any, dims: int) -> Tensor:
    return y if bias is None else y + along(dense(bias), 0, dims + 1)


def _by_entries(
    x: Tensor, weight: GatedParameter, dims: int, stride: list[int], padding: Any, dilation: list[int], groups: int
) -> Tensor:
    assert weight.drawn is not None
    kernel = list(weight.shape[2:])
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        x = F.pad(x, [side for n in reversed(total) for side in (n // 2, n - n // 2)])
    around = [0] * dims if isinstance(padding, str) else _sizes(padding, dims)
    images = x if x.dim() == dims + 2 else x.unsqueeze(0)
    unfold = Unfold(
        images.shape[1],
        _three(images.shape[2:], 1),
        _three(kernel, 1),
        _three(stride, 1),
        _three(around, 0),
        _three(dilation, 1),
        groups,
    )
    images = images.reshape(*images.shape[:2], *unfold.space)
    y = product.convolution(images, weight.weight, weight.drawn, unfold)
    y = y.reshape(*y.shape[:2], *unfold.windows[3 - dims :])
    return y if x.dim() == dims + 2 else y.squeeze(0)


def _three(sizes: Sequence[int], missing: int) -> tuple[int, int, int]:
    depth, height, width = [missing] * (3 - len(sizes)) + list(sizes)
    return depth, height, width


def _sizes(value: Any, dims: int) -> list[int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * dims if len(sizes) == 1 else sizes


RULES: dict[Any, Callable[..., Any]] = {
    torch.conv1d: _conv(1, torch.conv1d),
    torch.conv2d: _conv(2, torch.conv2d),
    torch.conv3d: _conv(3, torch.conv3d),
    torch.conv_transpose1d: _transposed(1, torch.conv_transpose1d),
    torch.conv_transpose2d: _transposed(2, torch.conv_transpose2d),
    torch.conv_transpose3d: _transposed(3, torch.conv_transpose3d),
}
