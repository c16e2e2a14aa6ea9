"""Parameters without their closed units: zeros written into one copy, and taken back later.

A trial prunes a network dozens of times. Only the slices of closed units are written.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l0func.compaction.removal import KeptSlices


class Scratch:
    """A copy of those parameters that lose slices.

    Args:
        params: The parameters, flat. They are never written.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self._params = params
        self._copies: dict[str, Tensor] = {}
        self._closed: KeptSlices = {}

    def pruned(self, kept: KeptSlices) -> dict[str, Tensor]:
        """The parameters with zeros outside of the kept slices.

        The tensors are valid until the next call, which writes into them again.

        Args:
            kept: For each tensor and dimension a bool vector: True where the slice is kept.
        """
        for path, dims in self._closed.items():
            self._restore(path, dims)
        self._closed = {path: dims for path, dims in kept.items() if path in self._params}
        result = dict(self._params)
        for path, dims in self._closed.items():
            result[path] = self._without(path, dims)
        return result

    def _without(self, path: str, dims: Mapping[int, Tensor]) -> Tensor:
        if path not in self._copies:
            self._copies[path] = self._params[path].clone()
        tensor = self._copies[path]
        for dim, keep in dims.items():
            tensor.index_fill_(dim, _closed_indices(keep, tensor), 0)
        return tensor

    def _restore(self, path: str, dims: Mapping[int, Tensor]) -> None:
        tensor, original = self._copies[path], self._params[path]
        for dim, keep in dims.items():
            indices = _closed_indices(keep, tensor)
            tensor.index_copy_(dim, indices, original.index_select(dim, indices))


def _closed_indices(keep: Tensor, tensor: Tensor) -> Tensor:
    return (~keep).nonzero().flatten().to(tensor.device)
