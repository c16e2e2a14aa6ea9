"""The steps that convolutions and transposed convolutions with a gated kernel share.

Gates on the kernel's channels scale the input or the output, and gates on its single entries are
drawn inside the convolution. :mod:`~l0func.engine.ops.conv` and
:mod:`~l0func.engine.ops.conv_transpose` describe their calls to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from l0func.engine.ops.fits import check_bias
from l0func.engine.ops.gaussian import gaussian
from l0func.engine.parameter import GatedParameter, broadcast_along, dense
from l0func.internal.context import has_one_dtype, result_dtype
from l0func.kernels.convolution import ConvolutionSizes

Side = tuple[int, int]
"""A kernel dimension, and the number of times that its scales repeat over the channels there."""


@dataclass(frozen=True)
class ConvolutionCall(ABC):
    """One call's settings, as torch's function takes them.

    Args:
        function: torch's convolution.
        dims: Number of image dimensions, 1 to 3.
        stride: A number, or one for each dimension.
        padding: As ``stride``; or a word, if the function takes one.
        dilation: As ``stride``.
        groups: Number of channel groups.
    """

    function: Callable[..., Tensor]
    dims: int
    stride: Any
    padding: Any
    dilation: Any
    groups: int

    @property
    @abstractmethod
    def input_side(self) -> Side:
        """The kernel's dimension for input channels."""

    @property
    @abstractmethod
    def output_side(self) -> Side:
        """The kernel's dimension for output channels."""

    @abstractmethod
    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The convolution with a plain kernel, without bias."""

    @abstractmethod
    def convolve_entries(self, x: Tensor, kernel: GatedParameter) -> Any:
        """The convolution with the entry gates' masks and without scales, or NotImplemented."""


def gated_convolution(call: ConvolutionCall, input: Any, weight: Any, bias: Any) -> Any:
    """A convolution with a gated kernel.

    Args:
        call: The call's settings.
        input: Images, ``(N, channels, *sizes)`` or ``(channels, *sizes)``.
        weight: The kernel.
        bias: A vector, or None.
    """
    if not isinstance(weight, GatedParameter) or isinstance(input, GatedParameter):
        return NotImplemented
    if _has_window_scales(weight) or not _fits(call, input, weight):
        return NotImplemented
    if not has_one_dtype(input, weight):
        return NotImplemented
    dim, repeats = call.output_side
    check_bias(call.function, bias, weight.shape[dim] * repeats, weight)
    x = _scaled(input, weight, call.input_side, call.dims)
    y = _unscaled(call, x, weight)
    if y is NotImplemented:
        return NotImplemented
    y = _scaled(y, weight, call.output_side, call.dims)
    if bias is None:
        return y
    return y + broadcast_along(dense(bias), 0, call.dims + 1)


def _fits(call: ConvolutionCall, input: Tensor, weight: GatedParameter) -> bool:
    if weight.dim() != call.dims + 2 or input.dim() - call.dims not in (1, 2):
        return False
    dim, repeats = call.input_side
    if input.shape[-call.dims - 1] != weight.shape[dim] * repeats:
        return False
    settings = (call.stride, call.dilation)
    if not all(_is_setting(setting, call.dims) for setting in settings):
        return False
    steps = [*per_dim(call.stride, call.dims), *per_dim(call.dilation, call.dims)]
    return min(steps) > 0 and _is_padding(call)


def _is_setting(setting: Any, dims: int) -> bool:
    return isinstance(setting, int) or len(setting) in (1, dims)


def _is_padding(call: ConvolutionCall) -> bool:
    if call.padding == "same":
        return set(per_dim(call.stride, call.dims)) == {1}
    if isinstance(call.padding, str):
        return call.padding == "valid"
    return _is_setting(call.padding, call.dims)


def _has_window_scales(weight: GatedParameter) -> bool:
    """Whether gates are on window positions; scaling input or output cannot express them."""
    return any(scale is not None for scale in weight.scales[2:])


def _scaled(x: Tensor, weight: GatedParameter, side: Side, dims: int) -> Tensor:
    dim, repeats = side
    scale = weight.scales[dim]
    if scale is None:
        return x
    return x * broadcast_along(scale.repeat(repeats), 0, dims + 1)


def _unscaled(call: ConvolutionCall, x: Tensor, weight: GatedParameter) -> Any:
    """The convolution with the kernel's entry gates; the scales are left to the caller."""
    gates = weight.entry_gates
    if gates is None:
        # torch's autocast knows convolutions only above vmap.
        dtype, _ = result_dtype(x, weight.weight)
        return call.convolve(x.to(dtype), weight.weight.to(dtype))
    if gates.local_reparam:
        return gaussian(call.convolve, x, weight)
    return call.convolve_entries(x, weight)


def per_dim(setting: Any, dims: int) -> list[int]:
    """A convolution's setting as a list with a number for each dimension."""
    sizes = [setting] if isinstance(setting, int) else list(setting)
    return sizes * dims if len(sizes) == 1 else sizes


def sizes_of(
    channels: int,
    space: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ConvolutionSizes:
    """A convolution's windows; images get size 1 for the dimensions that they lack."""
    space, kernel = _three(space, 1), _three(kernel, 1)
    stride, dilation = _three(stride, 1), _three(dilation, 1)
    padding = _three(padding, 0)
    return ConvolutionSizes(channels, space, kernel, stride, padding, dilation, groups)


def _three(sizes: Sequence[int], missing: int) -> tuple[int, int, int]:
    filled = [missing] * (3 - len(sizes))
    depth, height, width = [*filled, *sizes]
    return depth, height, width
