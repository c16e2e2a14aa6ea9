"""Image patches and their adjoint: with them a convolution is a matrix product.

The contraction in the engine uses them for convolutions with entry gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Unfold:
    """The patches under a convolution's windows, in three spatial dimensions.

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

    @property
    def windows(self) -> Sizes:
        """Numbers of windows along the spatial dimensions."""
        return self._windows_along(0), self._windows_along(1), self._windows_along(2)

    def patches(self, x: Tensor) -> Tensor:
        """``(N, channels, *space)`` to ``(N, groups, windows, channels / groups * kernel)``."""
        n, depth = x.shape[0], self.windows[0]
        plane = prod(self.kernel[1:])
        front = self.padding[0]
        x = F.pad(x, (0, 0, 0, 0, front, front))
        seen: list[Tensor] = []
        for i in range(self.kernel[0]):
            slab = x[:, :, self._slab(i)].transpose(1, 2).flatten(0, 1)
            unfolded = F.unfold(slab, self.kernel[1:], **self._flat())
            # (N, depth, channels, kernel depth, kernel plane, windows of a plane)
            seen.append(unfolded.reshape(n, depth, self.channels, 1, plane, -1))
        whole = torch.cat(seen, dim=3).permute(0, 2, 3, 4, 1, 5)
        entries = self.channels // self.groups * prod(self.kernel)
        by_group = whole.reshape(n, self.groups, entries, prod(self.windows))
        return by_group.transpose(2, 3)

    def images(self, patches: Tensor) -> Tensor:
        """The adjoint of :meth:`patches`: the sum of all patches, each at its window's place."""
        n, depth = patches.shape[0], self.windows[0]
        plane = prod(self.windows[1:])
        d, h, w = self.space
        front = self.padding[0]
        window = (self.kernel[0], prod(self.kernel[1:]))
        whole = patches.transpose(2, 3).reshape(n, self.channels, *window, depth, plane)
        seen = whole.permute(0, 4, 1, 2, 3, 5)
        x = patches.new_zeros(n, self.channels, d + 2 * front, h, w)
        for i in range(self.kernel[0]):
            flat = seen[:, :, :, i].reshape(n * depth, -1, plane)
            folded = F.fold(flat, (h, w), self.kernel[1:], **self._flat())
            slab = folded.reshape(n, depth, self.channels, h, w)
            x[:, :, self._slab(i)] += slab.transpose(1, 2)
        return x[:, :, front : front + d]

    def _windows_along(self, dim: int) -> int:
        extent = self.dilation[dim] * (self.kernel[dim] - 1) + 1
        free = self.space[dim] + 2 * self.padding[dim] - extent
        return free // self.stride[dim] + 1

    def _slab(self, i: int) -> slice:
        """The planes under entry ``i`` along the window's depth."""
        start, step = i * self.dilation[0], self.stride[0]
        last = start + step * (self.windows[0] - 1)
        return slice(start, last + 1, step)

    def _flat(self) -> dict[str, Any]:
        """Settings for F.unfold and F.fold within a plane."""
        return {
            "dilation": self.dilation[1:],
            "padding": self.padding[1:],
            "stride": self.stride[1:],
        }
