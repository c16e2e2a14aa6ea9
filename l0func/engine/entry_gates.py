"""Gates on single entries of a weight: where they sit in their key's stream, and their masks.

A stand-in (:mod:`l0func.engine.parameter`) carries them beside its weight. The handlers in
:mod:`l0func.engine.ops` give them to a kernel that draws each mask, uses it and forgets it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from l0func import random
from l0func.distributions import GateDistribution

WORDS_PER_CALL = 4
"""Draws that one call of the generator makes; see :mod:`l0func.random`."""


class SumLog:
    """The weight entries whose sums were already drawn, in one call of a gated function.

    Local reparameterisation draws the sums over a weight instead of its mask. Two draws for the
    same entries would be two masks, so the log refuses the second. Each call makes one log; all
    its stand-ins share it.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[int, int]]] = {}

    def add(self, path: str, first: int, stop: int) -> None:
        """Note that the sums over entries ``first`` to ``stop - 1`` of a weight are drawn.

        Raises:
            ValueError: Some of these entries are in the log already.
        """
        known = self._entries.setdefault(path, [])
        if any(first < other_stop and other_first < stop for other_first, other_stop in known):
            raise ValueError(
                f"{path!r} is used twice in one call (time steps, or tied layers), and local "
                "reparameterisation would draw its gates anew for each use. Use "
                "sampling='exact', or gate its rows or columns."
            )
        known.append((first, stop))


@dataclass(frozen=True)
class EntryGates:
    """Gates on single entries of a weight, drawn where they are used.

    Args:
        distribution: The distribution of the gates.
        key: The gate vector's own key, shape ``(2,)``.
        log_alpha: Gate locations. Their dimensions are the first ones of the weight: all of them
            for a gate on every entry, fewer for a gate on each row or plane.
        sums: The log of this call, for local reparameterisation.
        local_reparam: Whether linear layers and convolutions draw their sums in place of masks.
        first: Position of the first gate in the key's stream.
        turned: Whether the weight is the transpose of the matrix that ``log_alpha`` is laid out
            for.
    """

    distribution: GateDistribution
    key: Tensor
    log_alpha: Tensor
    sums: SumLog
    local_reparam: bool = False
    first: int = 0
    turned: bool = False

    def narrow(self, start: int, length: int) -> EntryGates:
        """The gates of ``length`` slices of the first dimension, from ``start`` on."""
        gates_per_slice = prod(self.log_alpha.shape[1:])
        return replace(
            self,
            log_alpha=self.log_alpha.narrow(0, start, length),
            first=self.first + start * gates_per_slice,
        )

    def mask(self, rank: int) -> Tensor:
        """One draw of all gates, broadcastable to a weight of this rank."""
        z = self.distribution.quantile(self._uniforms(), self.log_alpha)
        missing = rank - z.dim()
        z = z.reshape(*z.shape, *(1,) * missing)
        return z.transpose(-2, -1) if self.turned else z

    def _uniforms(self) -> Tensor:
        """The elements of the key's stream from ``first`` on, in the shape of ``log_alpha``."""
        call, skip = divmod(self.first, WORDS_PER_CALL)
        seed, offset = self.key[..., 0], self.key[..., 1]
        start = torch.stack((seed, offset + call), dim=-1)
        u = random.uniform(start, skip + self.log_alpha.numel())
        return u[..., skip:].reshape(self.log_alpha.shape)
