"""Draws for a part of a gate vector: the slice of a key's stream that belongs to its gates."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.internal.below_vmap import below_vmap
from l0func.internal.sharding import Owned
from l0func.kernels.owned_draws import first_of_run, owned_uniforms


class StreamPart(NamedTuple):
    """The place of some gates among all gates of their vector."""

    own: tuple[Owned, ...]
    """For each dimension of the vector the indices of the part."""

    shape: tuple[int, ...]
    """The shape of the whole vector."""

    @property
    def lines(self) -> tuple[int, int] | None:
        """The first gate's position in the stream, and the step from one line to the next.

        None if the part is no rectangle of a matrix.
        """
        if len(self.shape) != 2:
            return None
        rows, columns = self.own
        if not (isinstance(rows, range) and isinstance(columns, range)):
            return None
        return rows.start * self.shape[1] + columns.start, self.shape[1]


def own_draws(
    distribution: GateDistribution, key: Tensor, log_alpha: Tensor, part: StreamPart
) -> Tensor:
    """The draws that the whole vector's draw gives to a part of it, bit for bit.

    Args:
        distribution: The gates' distribution.
        key: The vector's key, shape ``(2,)``.
        log_alpha: The part's locations.
        part: Its place.
    """
    first = first_of_run(part.own, part.shape)
    if first is not None:
        return distribution.draws(key, log_alpha, first)
    [u] = below_vmap(partial(_uniforms_of_part, part), key)
    return distribution.quantile(u, log_alpha)


def _uniforms_of_part(part: StreamPart, keys: Tensor) -> list[Tensor]:
    return [owned_uniforms(keys, part.own, part.shape)]
