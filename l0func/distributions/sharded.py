"""Gates that are DTensors: each process draws and computes the gates that it holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l0func.internal.sharding import is_dtensor, layout_of, owned_by
from l0func.internal.shards import part, wrapped
from l0func.kernels.owned_draws import first_of_run, owned_uniforms


def sharded_uniforms(key: Tensor, like: Tensor) -> Tensor:
    """The slice of ``uniform(key, like.shape)`` that this process holds, in float32, plain."""
    return owned_uniforms(key, owned_by(like), tuple(like.shape))


def sharded_draws(distribution: Any, key: Tensor, log_alpha: Tensor, first: int) -> Tensor:
    """One draw for each gate of a DTensor, bits equal to the whole draw; nothing is sent.

    Raises:
        ValueError: There are several keys, or the draw starts within a stream.
    """
    if key.dim() != 1 or first != 0:
        raise ValueError(
            f"Gates that are DTensors are drawn by one key, shape (2,); got {tuple(key.shape)}. "
            "torch has no vmap over DTensors: call once for each key."
        )
    layout, own = layout_of(log_alpha), owned_by(log_alpha)
    start, local = first_of_run(own, tuple(log_alpha.shape)), part(log_alpha)
    if start is not None:
        z = distribution.draws(key, local, start)
    else:
        u = owned_uniforms(key, own, tuple(log_alpha.shape))
        z = distribution.quantile(u, local)
    return wrapped(z, layout, log_alpha.shape)


def sharded_quantile(distribution: Any, u: Tensor, log_alpha: Tensor) -> Tensor:
    """The draws of a DTensor's gates at probabilities: a DTensor of its layout, or one number."""
    layout = layout_of(log_alpha)
    if is_dtensor(u):
        if layout_of(u) != layout or u.shape != log_alpha.shape:
            raise ValueError(
                f"The probabilities are a DTensor, {layout_of(u)}, and the gates are {layout}. "
                "Lay them out alike: u.redistribute(placements=log_alpha.placements)."
            )
        u = part(u)
    elif u.numel() != 1:
        raise ValueError(
            "The gates are a DTensor and the probabilities a plain tensor; lay them out like the "
            "gates, or draw by a key: distribution.sample(key, log_alpha)."
        )
    return wrapped(distribution.quantile(u, part(log_alpha)), layout, log_alpha.shape)
