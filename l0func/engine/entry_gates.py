"""Gates on single entries of a weight: their place in a key's stream, and their masks.

A stand-in (:mod:`l0func.engine.parameter`) carries them beside its weight. The handlers in
:mod:`l0func.engine.ops` give them to a kernel that draws each mask, uses it and forgets it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.engine.own_draws import StreamPart, own_draws

WORDS_PER_CALL = 4
"""Stream elements that the generator makes in one call; see :mod:`l0func.random`."""


class SumLog:
    """The weight entries already used for a draw, while a gated function runs once.

    Local reparameterisation draws sums over a weight instead of its mask. Two draws for the same
    entries would be two masks, so the log refuses the second. Each call makes one log, and all its
    stand-ins share it.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[int, int]]] = {}

    def add(self, path: str, first: int, stop: int) -> None:
        """Note a draw for the weight's entries ``first`` to ``stop - 1``.

        Raises:
            ValueError: The log already has a draw for one of these entries.
        """
        known = self._entries.setdefault(path, [])
        for known_first, known_stop in known:
            if first < known_stop and known_first < stop:
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
        distribution: The gates' distribution.
        key: The gate vector's own key, shape ``(2,)``.
        log_alpha: Gate locations. Their dimensions are the weight's first ones: all for a gate on
            every entry, fewer for a gate on each row or plane.
        sums: The call's log for local reparameterisation.
        local_reparam: Whether layers draw their sums in place of masks.
        first: The first gate's position in the key's stream.
        turned: Whether the weight is transposed and ``log_alpha`` is not.
        part: The gates' place in the whole vector, where the weight is a part of a parameter.
    """

    distribution: GateDistribution
    key: Tensor
    log_alpha: Tensor
    sums: SumLog
    local_reparam: bool = False
    first: int = 0
    turned: bool = False
    part: StreamPart | None = None

    def narrow(self, start: int, length: int) -> EntryGates:
        """The gates for a weight that is narrowed along dimension 0."""
        gates_per_slice = prod(self.log_alpha.shape[1:])
        first = self.first + start * gates_per_slice
        return replace(self, log_alpha=self.log_alpha.narrow(0, start, length), first=first)

    def mask(self, rank: int) -> Tensor:
        """One draw for all gates, broadcastable to a weight with this rank."""
        if self.part is None:
            z = self.distribution.draws(self.key, self.log_alpha, self.first)
        else:
            z = own_draws(self.distribution, self.key, self.log_alpha, self.part)
        missing = rank - z.dim()
        z = z.reshape(*z.shape, *(1,) * missing)
        return z.transpose(-2, -1) if self.turned else z
