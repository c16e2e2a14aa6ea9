"""Convolutions with a kernel of its own for each example, and their derivatives.

An example's channels are groups of one large convolution. Images are laid out as patches only
where those are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class ConvolutionSizes:
    """A convolution in three spatial dimensions.

    Convolutions with fewer dimensions have leading sizes of 1.

    Args:
        channels: The image's channels.
        space: The image's sizes.
        kernel: The window's sizes.
        stride: Steps between windows.
        padding: Zeros on both sides.
        dilation: Steps between a window's entries.
        groups: Channel groups that are kept apart.
    """

    channels: int
    space: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> ConvolutionSizes | None:
        """The inverse of :attr:`numbers`; None from none."""
        if not numbers:
            return None
        channels, *sides, groups = numbers
        space, kernel, stride, padding, dilation = [_side(sides, i) for i in range(5)]
        return cls(channels, space, kernel, stride, padding, dilation, groups)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All sizes in a row, for a compiler's graph."""
        sides = *self.space, *self.kernel, *self.stride, *self.padding, *self.dilation
        return self.channels, *sides, self.groups

    @property
    def windows(self) -> Sizes:
        """Numbers of windows along the spatial dimensions."""
        return self._windows_along(0), self._windows_along(1), self._windows_along(2)

    def outputs(self, x: Tensor, weights: Tensor) -> Tensor:
        """The convolutions of images with their example's weight.

        Args:
            x: ``(b, N, channels, *space)``.
            weights: ``(b, O, I)``.

        Returns:
            Shape ``(b, N, O, *windows)``.
        """
        examples, images, *_ = x.shape
        rows = weights.shape[1]
        if x.numel() == 0 or weights.numel() == 0:
            return x.new_zeros(examples, images, rows, *self.windows)
        settings = self._settings(examples)
        y = untyped.convolution(self._joined(x), self._kernels(weights), None, *settings)
        return _parted(y, examples, rows, self.windows)

    def input_gradients(self, g: Tensor, weights: Tensor) -> Tensor:
        """The gradients in the images.

        Args:
            g: Gradients in the outputs, ``(b, N, O, *windows)``.
            weights: ``(b, O, I)``.

        Returns:
            Shape ``(b, N, channels, *space)``.
        """
        examples, images, *_ = g.shape
        shape = examples, images, self.channels, *self.space
        if g.numel() == 0 or weights.numel() == 0:
            return g.new_zeros(shape)
        x = self._joined(g.new_empty(shape))
        wanted = [True, False, False]
        gradient = self._backward(g, x, self._kernels(weights), wanted)[0]
        return _parted(gradient, examples, self.channels, self.space)

    def weight_gradients(self, g: Tensor, x: Tensor) -> Tensor:
        """For each example the gradient in its weight.

        Args:
            g: Gradients in the outputs, ``(b, N, O, *windows)``.
            x: ``(b, N, channels, *space)``.

        Returns:
            Shape ``(b, O, I)``.
        """
        examples, _, rows, *_ = g.shape
        inner = self.channels // self.groups
        columns = inner * self.kernel[0] * self.kernel[1] * self.kernel[2]
        weights = g.new_empty(examples, rows, columns)
        if g.numel() == 0 or x.numel() == 0:
            return weights.zero_()
        if self._has_small_patches(g):
            return self._by_patches(g, x)
        wanted = [False, True, False]
        gradient = self._backward(g, self._joined(x), self._kernels(weights), wanted)[1]
        return gradient.reshape(weights.shape)

    def _has_small_patches(self, g: Tensor) -> bool:
        """Whether all patches of an example together are much smaller than its weight."""
        places = g.shape[1] * prod(g.shape[3:])
        return self._dims == 2 and self.groups == 1 and 4 * places <= g.shape[2]

    def _by_patches(self, g: Tensor, x: Tensor) -> Tensor:
        """The gradients in the weights as products with patches.

        torch's convolution for many small images takes up to five times as long.
        """
        sides = self.kernel[1:], self.dilation[1:], self.padding[1:], self.stride[1:]
        images = x.reshape(-1, self.channels, *self.space[1:])
        patches: Tensor = untyped.nn.functional.unfold(images, *sides)
        by_example = patches.reshape(*x.shape[:2], *patches.shape[1:])
        columns = by_example.transpose(2, 3).flatten(1, 2)
        return torch.bmm(g.flatten(3).transpose(1, 2).flatten(2), columns)

    def _backward(
        self, g: Tensor, x: Tensor, kernels: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, ...]:
        settings = self._settings(g.shape[0])
        backward: Any = untyped.ops.aten.convolution_backward
        return backward(self._joined(g), x, kernels, [0], *settings, wanted)

    def _settings(self, examples: int) -> tuple[Any, ...]:
        """What torch's convolution takes after the bias."""
        own = slice(3 - self._dims, 3)
        sides = self.stride[own], self.padding[own], self.dilation[own]
        return *sides, False, (0,) * self._dims, examples * self.groups

    def _joined(self, images: Tensor) -> Tensor:
        """``(b, N, channels, *sizes)`` to ``(N, b * channels, *own sizes)``."""
        examples, count, channels, *sizes = images.shape
        shape = count, examples * channels, *sizes[3 - self._dims :]
        return images.transpose(0, 1).reshape(shape)

    def _kernels(self, weights: Tensor) -> Tensor:
        """``(b, O, I)`` to ``(b * O, channels / groups, *own sizes)``."""
        own = self.kernel[3 - self._dims :]
        shape = weights.shape[0] * weights.shape[1], self.channels // self.groups, *own
        return weights.reshape(shape)

    @property
    def _dims(self) -> int:
        """Dimensions that torch sees: two, which are the fastest, where the depth is one."""
        flat = self.space[0] == self.kernel[0] == 1 and self.padding[0] == 0
        return 2 if flat else 3

    def _windows_along(self, dim: int) -> int:
        extent = self.dilation[dim] * (self.kernel[dim] - 1) + 1
        free = self.space[dim] + 2 * self.padding[dim] - extent
        return free // self.stride[dim] + 1


def _side(numbers: Sequence[int], i: int) -> Sizes:
    depth, height, width = numbers[3 * i : 3 * i + 3]
    return depth, height, width


def _parted(images: Tensor, examples: int, channels: int, sizes: Sizes) -> Tensor:
    """``(N, b * channels, *own sizes)`` to ``(b, N, channels, *sizes)``."""
    by_example = images.reshape(images.shape[0], examples, channels, *sizes)
    return by_example.transpose(0, 1)
