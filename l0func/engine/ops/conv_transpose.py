"""Transposed convolutions with a gated kernel.

A convolution's derivative in its images is a transposed convolution. So with gates on single
entries, the transposed convolution runs as that derivative. The steps common to all convolutions
are in ``channels``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class _TransposedConvolution(ConvolutionCall):
    """One call to ``torch.conv_transpose1d``, ``conv_transpose2d`` or ``conv_transpose3d``."""

    output_padding: Any

    @property
    def input_side(self) -> Side:
        return 0, 1

    @property
    def output_side(self) -> Side:
        return 1, self.groups

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return self.function(x, kernel, None, *settings)

    def convolve_entries(self, x: Tensor, kernel: GatedParameter) -> Any:
        assert kernel.entry_gates is not None
        batched = x.dim() == self.dims + 2
        values = x if batched else x.unsqueeze(0)
        windows = list(values.shape[2:])
        space = self._output_space(windows, kernel)
        sizes = self._sizes(space, kernel)
        if list(sizes.windows[3 - self.dims :]) != windows:
            # An output padding of a stride or more gives the convolution more windows.
            return NotImplemented
        values = values.reshape(*values.shape[:2], *sizes.windows)
        gates = kernel.entry_gates
        y = product.masked_transposed_convolution(values, kernel.weight, gates, sizes)
        y = y.reshape(*y.shape[:2], *space)
        return y if batched else y.squeeze(0)

    def _output_space(self, windows: list[int], kernel: GatedParameter) -> list[int]:
        """An output image's sizes."""
        stride = per_dim(self.stride, self.dims)
        padding = per_dim(self.padding, self.dims)
        dilation = per_dim(self.dilation, self.dims)
        output_padding = per_dim(self.output_padding, self.dims)
        space: list[int] = []
        for i, size in enumerate(kernel.shape[2:]):
            last_start = (windows[i] - 1) * stride[i]
            window_size = dilation[i] * (size - 1) + 1
            cut = 2 * padding[i] - output_padding[i]
            space.append(last_start + window_size - cut)
        return space

    def _sizes(self, space: list[int], kernel: GatedParameter) -> ConvolutionSizes:
        """The underlying convolution's windows over output images."""
        stride = per_dim(self.stride, self.dims)
        padding = per_dim(self.padding, self.dims)
        dilation = per_dim(self.dilation, self.dims)
        channels = kernel.shape[1] * self.groups
        window = kernel.shape[2:]
        return sizes_of(channels, space, window, stride, padding, dilation, self.groups)


def _transposed_handler(function: Callable[..., Tensor], dims: int) -> Handler:
    def transposed_convolution(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        call = _TransposedConvolution(
            function, dims, stride, padding, dilation, groups, output_padding
        )
        return gated_convolution(call, input, weight, bias)

    return transposed_convolution


HANDLERS.runs_for(torch.conv_transpose1d)(_transposed_handler(torch.conv_transpose1d, 1))
HANDLERS.runs_for(torch.conv_transpose2d)(_transposed_handler(torch.conv_transpose2d, 2))
HANDLERS.runs_for(torch.conv_transpose3d)(_transposed_handler(torch.conv_transpose3d, 3))
