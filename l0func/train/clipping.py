"""Gradient clipping: functions over the gradients of weights and gates, for ``training``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.shard_sums import full_norms
from l0func.internal.tree import Pytree, Tree
from l0func.internal.untyped import untyped
from l0func.train.numbers import check_number
from l0func.train.objective import is_pair

Clip: TypeAlias = Callable[[Pytree, Pytree], tuple[Any, Any]]
"""``clip(weights' gradients, gates' gradients)`` returns both, changed."""

_Weights = TypeVar("_Weights", bound=Tree)
_Gates = TypeVar("_Gates", bound=Tree)


class ClipNorm(Protocol):
    """A :data:`Clip` that returns both in the structures in which they came."""

    def __call__(self, weights: _Weights, gates: _Gates) -> tuple[_Weights, _Gates]:
        """Both, scaled together."""
        ...


def clip_norm(max_norm: float, norm_type: float = 2.0) -> ClipNorm:
    r"""Scale all gradients together so that their norm is at most ``max_norm``.

    .. math:: g \leftarrow g \cdot \min\bigl(1, \text{max\_norm} / (\|g\| + 10^{-6})\bigr)

    The norm is over weights and gates, as ``torch.nn.utils.clip_grad_norm_`` computes it over the
    parameters of a loop. In a sweep every member has its own norm.

    Args:
        max_norm: The largest norm, above 0.
        norm_type: The order of the norm, at least 1; ``math.inf`` for the largest entry.

    Returns:
        ``clip(weights, gates)``, for ``l0func.training(..., clip=...)``.

    Raises:
        TypeError: A setting is no number.
        ValueError: A number is outside its range.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> clip = l0.clip_norm(1.0)
        >>> weights, gates = clip({"w": torch.tensor([3.0])}, {"w": torch.tensor([4.0])})
        >>> weights
        {'w': tensor([0.6000])}
    """
    check_number("max_norm", max_norm)
    check_number("norm_type", norm_type)
    if not 0.0 < max_norm < math.inf or not norm_type >= 1.0:
        raise ValueError(
            "A norm to clip at is finite and above 0, and its order at least 1; got "
            f"max_norm={max_norm}, norm_type={norm_type}."
        )

    def clip(weights: _Weights, gates: _Gates) -> tuple[_Weights, _Gates]:
        grads = (weights, gates)
        leaves = tree.leaves(grads, "gradients").values()
        norms = full_norms(map(_wide_gradient, leaves), norm_type)
        if not norms:
            return grads
        norm = untyped.linalg.vector_norm(torch.stack(norms), norm_type)
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return tree.map_tensors(lambda g: g * scale.to(g.dtype), grads)

    return clip


def _wide_gradient(g: Tensor) -> Tensor:
    # Half precision overflows where squares are summed.
    return g.to(torch.promote_types(g.dtype, torch.float32))


def clipped_gradients(clip: Clip, weights: Pytree, gates: Pytree) -> tuple[Pytree, Pytree]:
    """The gradients that a clipping function returns, checked.

    Raises:
        TypeError: It does not return the gradients of weights and gates.
        ValueError: It returns others, or changes a shape.
    """
    try:
        result: Any = clip(weights, gates)
    except (AttributeError, TypeError) as error:
        # torch's own functions look for tensors with .grad, and find paths.
        raise TypeError(
            "clip gets two trees, the gradients of weights and gates, and returns both; this one "
            f"failed on them: {error}. For torch.nn.utils.clip_grad_norm_ there is "
            "l0func.clip_norm(1.0)."
        ) from error
    if not is_pair(result):
        raise TypeError(
            "clip takes the gradients of weights and gates, and returns both; got "
            f"{type(result).__name__}. An example is l0func.clip_norm(1.0)."
        )
    _check_gradient_shapes(
        tree.leaves(result, "gradients"), tree.leaves((weights, gates), "gradients")
    )
    return result


def _check_gradient_shapes(got: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    returned = "the gradients that clip returned"
    names.check_names(got, given, returned, "those that it was given")
    for path, g in got.items():
        if g.shape != given[path].shape:
            raise ValueError(
                f"clip keeps the shapes of gradients; it returned {path!r} of shape "
                f"{tuple(g.shape)} for {tuple(given[path].shape)}."
            )
