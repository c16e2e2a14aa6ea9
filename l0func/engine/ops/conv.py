"""Convolutions with a gated kernel; the steps common to all convolutions are in ``channels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.contraction import product
from l0func.engine.ops.channels import (
    ConvolutionCall,
    Side,
    gated_convolution,
    per_dim,
    sizes_of,
)
from l0func.engine.ops.table import HandlerTable
from l0func.engine.parameter import GatedParameter, Handler
from l0func.kernels.convolution import ConvolutionSizes

HANDLERS = HandlerTable()


class _Convolution(ConvolutionCall):
    """One call to ``torch.conv1d``, ``conv2d`` or ``conv3d``."""

    @property
    def input_side(self) -> Side:
        return 1, self.groups

    @property
    def output_side(self) -> Side:
        return 0, 1

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return self.function(x, kernel, None, *settings)

    def convolve_entries(self, x: Tensor, kernel: GatedParameter) -> Tensor:
        assert kernel.entry_gates is not None
        batched = x.dim() == self.dims + 2
        images, padding = self._padded(x if batched else x.unsqueeze(0), kernel)
        sizes = self._sizes(images, kernel, padding)
        images = images.reshape(*images.shape[:2], *sizes.space)
        y = product.masked_convolution(images, kernel.weight, kernel.entry_gates, sizes)
        windows = sizes.windows[3 - self.dims :]
        y = y.reshape(*y.shape[:2], *windows)
        return y if batched else y.squeeze(0)

    def _sizes(
        self, images: Tensor, kernel: GatedParameter, padding: list[int]
    ) -> ConvolutionSizes:
        stride = per_dim(self.stride, self.dims)
        dilation = per_dim(self.dilation, self.dims)
        channels, *space = images.shape[1:]
        window = kernel.shape[2:]
        return sizes_of(channels, space, window, stride, padding, dilation, self.groups)

    def _padded(self, x: Tensor, kernel: GatedParameter) -> tuple[Tensor, list[int]]:
        """The images, padded if the padding is a word; and the padding that is left to do."""
        if not isinstance(self.padding, str):
            return x, per_dim(self.padding, self.dims)
        if self.padding == "same":
            x = F.pad(x, self._same_padding(kernel))
        return x, [0] * self.dims

    def _same_padding(self, kernel: GatedParameter) -> list[int]:
        """The padding that keeps the sizes, as ``F.pad`` takes it: last dimension first."""
        sides: list[int] = []
        dilation = per_dim(self.dilation, self.dims)
        for step, size in zip(reversed(dilation), reversed(kernel.shape[2:]), strict=True):
            total = step * (size - 1)
            left = total // 2
            sides += [left, total - left]
        return sides


def _handler(function: Callable[..., Tensor], dims: int) -> Handler:
    def convolution(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        call = _Convolution(function, dims, stride, padding, dilation, groups)
        return gated_convolution(call, input, weight, bias)

    return convolution


HANDLERS.runs_for(torch.conv1d)(_handler(torch.conv1d, 1))
HANDLERS.runs_for(torch.conv2d)(_handler(torch.conv2d, 2))
HANDLERS.runs_for(torch.conv3d)(_handler(torch.conv3d, 3))
