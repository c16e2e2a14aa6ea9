"""Cases for every torch function that writes in place: a target, and the arguments after it.

A case gets values of shape (1, 2, 3) between 0 and 1. A function without a case takes the target
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


def _copy(h: Tensor) -> Tensor:
    return h.clone()


def _integers(h: Tensor) -> Tensor:
    return (h * 30).long() + 1


def _above_one(h: Tensor) -> Tensor:
    return h + 1.5


def _first(h: Tensor) -> Tensor:
    return h[0].clone()


class Write(NamedTuple):
    """How a writing function is called.

    Args:
        target: From a row's values to the tensor to write into.
        arguments: From a row's values to the arguments after it.
    """

    target: Callable[[Tensor], Tensor] = _copy
    arguments: Callable[[Tensor], tuple[Any, ...]] = lambda h: ()


def _sparse(h: Tensor) -> Tensor:
    """A constant: torch.vmap has no sparse tensors with values for each row."""
    places, size = [[0, 1], [0, 1]], (h.shape[-2], 3)
    return torch.sparse_coo_tensor(places, [1.0, 1.0], size, dtype=h.dtype, check_invariants=False)


def _other(h: Tensor) -> tuple[Any, ...]:
    return (h.flip(-1),)


def _small(h: Tensor) -> tuple[Any, ...]:
    return (_integers(h).flip(-1) % 5,)


def _places(h: Tensor) -> Tensor:
    """Places along the last dimension that differ between rows."""
    return h.argsort(-1)


_FIRSTS = torch.tensor([2, 0])

_BINARY = (
    "__iadd__ __idiv__ __ifloordiv__ __imod__ __imul__ __isub__ add_ arctan2_ atan2_ copysign_ "
    "copy_ div_ divide_ eq_ float_power_ floor_divide_ fmod_ ge_ greater_ greater_equal_ gt_ "
    "heaviside_ hypot_ igamma_ igammac_ le_ less_ less_equal_ logical_and_ logical_or_ "
    "logical_xor_ lt_ mul_ multiply_ ne_ nextafter_ not_equal_ pow_ remainder_ sub_ subtract_ "
    "true_divide_ xlogy_"
)
_OF_INTEGERS = (
    "__iand__ __ior__ __ixor__ bitwise_and_ bitwise_left_shift_ bitwise_or_ "
    "bitwise_right_shift_ bitwise_xor_ gcd_ lcm_"
)
WRITES: dict[str, Write] = {
    **{name: Write(arguments=_other) for name in _BINARY.split()},
    **{name: Write(_integers, _small) for name in _OF_INTEGERS.split()},
    "acosh_": Write(_above_one),
    "addbmm_": Write(_first, lambda h: (h.expand(2, 2, 3), (h.mT @ h).expand(2, 3, 3))),
    "addcdiv_": Write(arguments=lambda h: (h.flip(-1), h + 1)),
    "addcmul_": Write(arguments=lambda h: (h.flip(-1), h + 1)),
    "addmm_": Write(_first, lambda h: (h[0], h[0].T @ h[0])),
    "addmv_": Write(lambda h: h[0, 0].clone(), lambda h: (h[0].T, h[0, :, 0])),
    "addr_": Write(_first, lambda h: (h[0, :, 0], h[0, 0])),
    "apply_": Write(arguments=lambda h: (abs,)),
    "arccosh_": Write(_above_one),
    "as_strided_": Write(_first, lambda h: ((3, 2), (1, 3))),
    "baddbmm_": Write(arguments=lambda h: (h, h.mT @ h)),
    "bitwise_not_": Write(_integers),
    "clamp_": Write(arguments=lambda h: (0.3, 0.6)),
    "clamp_max_": Write(arguments=lambda h: (h.mean(),)),
    "clamp_min_": Write(arguments=lambda h: (h.mean(),)),
    "clip_": Write(arguments=lambda h: (h.flip(-1), None)),
    "constant_": Write(arguments=lambda h: (0.5,)),
    "cumprod_": Write(arguments=lambda h: (-1,)),
    "cumsum_": Write(arguments=lambda h: (-1,)),
    "embedding_renorm_": Write(_first, lambda h: (torch.tensor([1]), 0.5, 2.0)),
    "eye_": Write(_first),
    "fill_": Write(arguments=lambda h: (h.sum(),)),
    "fill_diagonal_": Write(_first, lambda h: (0.5,)),
    "index_add_": Write(_first, lambda h: (1, _FIRSTS, h[0, :, :2])),
    "index_copy_": Write(_first, lambda h: (1, _FIRSTS, h[0, :, :2])),
    "index_fill_": Write(_first, lambda h: (1, _FIRSTS, h.mean())),
    "index_reduce_": Write(_first, lambda h: (1, _FIRSTS, h[0, :, :2], "prod")),
    "ldexp_": Write(arguments=lambda h: (_integers(h) % 3,)),
    "lerp_": Write(arguments=lambda h: (h.flip(-1), h)),
    "map2_": Write(arguments=lambda h: (h, h, max)),
    "map_": Write(arguments=lambda h: (h, max)),
    "masked_fill_": Write(arguments=lambda h: (h > 0.5, h.mean())),
    "masked_scatter_": Write(arguments=lambda h: (torch.tensor([True, False, True]), h)),
    "mvlgamma_": Write(_above_one, lambda h: (2,)),
    "polygamma_": Write(arguments=lambda h: (1,)),
    "put_": Write(arguments=lambda h: (_FIRSTS, h[0, 0, :2])),
    "renorm_": Write(arguments=lambda h: (2, 0, 0.5)),
    "resize_": Write(arguments=lambda h: ((3, 2),)),
    "resize_as_": Write(arguments=lambda h: (h.mT,)),
    "resize_as_sparse_": Write(_sparse, lambda h: (_sparse(h.mT),)),
    "scatter_": Write(arguments=lambda h: (-1, _places(h), h)),
    "scatter_add_": Write(arguments=lambda h: (-1, _places(h), h)),
    "scatter_reduce_": Write(arguments=lambda h: (-1, _places(h), h, "amax")),
    "sparse_resize_": Write(_sparse, lambda h: ((4, 3), 2, 0)),
    "sparse_resize_and_clear_": Write(_sparse, lambda h: ((4, 3), 2, 0)),
    "squeeze_": Write(arguments=lambda h: (0,)),
    "swapaxes_": Write(arguments=lambda h: (1, 2)),
    "swapdims_": Write(arguments=lambda h: (1, 2)),
    "t_": Write(_first),
    "threshold_": Write(arguments=lambda h: (0.5, 0.1)),
    "transpose_": Write(arguments=lambda h: (1, 2)),
    "unsqueeze_": Write(arguments=lambda h: (0,)),
}

NOT_IN_ROWS: dict[str, str] = {
    "apply_": "torch.where",
    "as_strided_": r"x = x.as_strided\(",
    "detach_": r"x = x.detach\(\)",
    "map2_": "torch.where",
    "map_": "torch.where",
    "requires_grad_": "torch.func.grad",
    "share_memory_": "after the call",
}
"""For functions that vmap cannot run on a row's tensor, what their refusal advises."""
