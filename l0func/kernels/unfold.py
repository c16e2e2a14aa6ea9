"""Patches of images, and their adjoint: what makes a convolution a product with a matrix."""

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
    """The patches that the windows of a convolution see, in three dimensions of space; fewer have
    leading sizes of 1.

    Args:
        channels: Channels of the image.
        space: Sizes of the image.
        kernel: Sizes of the window.
        stride: Steps between windows.
        padding: Zeros on both sides.
        dilation: Steps between the entries of a window.
        groups: Runs of channels that are kept apart.
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
        """Numbers of windows along the dimensions of space."""
        sizes = zip(self.space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        depth, height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return depth, height, width

    def patches(self, x: Tensor) -> Tensor:
        """``(N, channels, *space)`` to ``(N, groups, windows, channels / groups * kernel)``."""
        n, depth = x.shape[0], self.windows[0]
        x = F.pad(x, (0, 0, 0, 0, self.padding[0], self.padding[0]))
        slabs = [
            x[:, :, self._slab(i)].transpose(1, 2).flatten(0, 1) for i in range(self.kernel[0])
        ]
        seen = [F.unfold(slab, self.kernel[1:], **self._flat()) for slab in slabs]
        # (N, depth, channels, kernel depth, kernel plane, windows of a plane)
        seen = [s.reshape(n, depth, self.channels, 1, prod(self.kernel[1:]), -1) for s in seen]
        whole = torch.cat(seen, dim=3).permute(0, 2, 3, 4, 1, 5)
        entries = self.channels // self.groups * prod(self.kernel)
        return whole.reshape(n, self.groups, entries, prod(self.windows)).transpose(2, 3)

    def images(self, patches: Tensor) -> Tensor:
        """The adjoint of :meth:`patches`: every patch added to where it was seen."""
        n, depth, plane = patches.shape[0], self.windows[0], prod(self.windows[1:])
        whole = patches.transpose(2, 3).reshape(n, self.channels, *self._window(), depth, plane)
        seen = whole.permute(0, 4, 1, 2, 3, 5)
        d, h, w = self.space
        x = patches.new_zeros(n, self.channels, d + 2 * self.padding[0], h, w)
        for i in range(self.kernel[0]):
            slab = F.fold(
                seen[:, :, :, i].reshape(n * depth, -1, plane),
                (h, w),
                self.kernel[1:],
                **self._flat(),
            )
            x[:, :, self._slab(i)] += slab.reshape(n, depth, self.channels, h, w).transpose(1, 2)
        return x[:, :, self.padding[0] : self.padding[0] + d]

    def _window(self) -> tuple[int, int]:
        return self.kernel[0], prod(self.kernel[1:])

    def _slab(self, i: int) -> slice:
        start, step = i * self.dilation[0], self.stride[0]
        return slice(start, start + step * (self.windows[0] - 1) + 1, step)

    def _flat(self) -> dict[str, Any]:
        return {
            "dilation": self.dilation[1:],
            "padding": self.padding[1:],
            "stride": self.stride[1:],
        }
