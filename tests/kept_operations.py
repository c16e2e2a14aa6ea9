"""Uses that make a trace keep units: a unit spread over others, and units in a bad place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from page_of_operations import page
from torch import Tensor

Case = Callable[[Tensor], Tensor]
aten = torch.ops.aten


def _tensors(op: Any) -> list[Any]:
    found = [a for a in op._schema.arguments if "Tensor" in str(a.type) and not a.kwarg_only]
    return found


def _overloads(name: str) -> list[Any]:
    packet = getattr(aten, name)
    return [getattr(packet, o) for o in packet.overloads() if "out" not in o]


def _is_unary(name: str) -> bool:
    return max(len(_tensors(op)) for op in _overloads(name)) < 2


UNARY: list[str] = [name for name in page.pointwise_names() if _is_unary(name)]
SPREAD: list[str] = [name for name in page.pointwise_names() if not _is_unary(name)]

_TYPES: tuple[Case, ...] = (
    Tensor.double,
    lambda h: (h * 10).long(),
    lambda h: h.gt(0.5),
    lambda h: h + 2,
)


def spread_case(name: str) -> Case:
    """A call on the units and, for all other tensors, on the first unit."""
    h = torch.linspace(0.1, 0.9, 36, dtype=torch.float64).reshape(2, 3, 6)
    for op in _overloads(name):
        for as_type in _TYPES:
            case = _spread(op, as_type)
            try:
                case(h)
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue
            if len(_tensors(op)) > 1:
                return case
    raise AssertionError(f"no overload of {name!r} runs on plain values")


def _spread(op: Any, as_type: Case) -> Case:
    def case(h: Tensor) -> Tensor:
        args: list[Any] = []
        for argument in op._schema.arguments:
            kind = str(argument.type)
            if argument.kwarg_only or (argument.has_default_value() and "Tensor" not in kind):
                break
            if "Tensor" not in kind:
                args.append(2)
                continue
            values = h if not args else (h * 0.5 + 0.1 * len(args))[..., :1]
            args.append(values.gt(0.4) if argument.name == "condition" else as_type(values))
        out = op(*args)
        out = out[0] if isinstance(out, tuple | list) else out
        return out.abs() if out.is_complex() else out.double()

    return case


def placed(case: Case, kind: str, dim: int) -> Case:
    """A case on values whose units lie along another dimension."""
    own, rank = (2, 3) if kind == "tokens" else (1, 4)
    order = list(range(rank))
    order[dim], order[own] = own, dim
    return lambda h: case(h.permute(order))


ALONG: dict[str, tuple[str, int]] = {
    "_unsafe_index_put": ("tokens", 0),
    "_fft_c2r": ("tokens", 1),
    **dict.fromkeys(["avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d"], ("images", 2)),
    **dict.fromkeys(["reflection_pad2d", "reflection_pad3d"], ("images", 2)),
    **dict.fromkeys(["replication_pad2d", "replication_pad3d"], ("images", 2)),
    **dict.fromkeys(["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"], ("images", 2)),
}
"""The layout of a case, and the dimension along which its units are kept."""

MOVES_ONLY: frozenset[str] = frozenset(
    (
        "_batch_norm_no_update _batch_norm_with_update _conj _convolution _grouped_mm "
        "_index_put_impl _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_reshape_alias _reshape_alias_copy _to_copy _unsafe_index _unsafe_view "
        "_upsample_nearest_exact2d _upsample_nearest_exact3d addmm alias as_strided baddbmm bmm "
        "cat channel_shuffle clone col2im constant_pad_nd convolution copy detach diagonal "
        "embedding empty_like expand fill flip full_like gather glu grid_sampler_3d im2col index "
        "index_select lift_fresh max_unpool2d max_unpool3d mm mv native_batch_norm new_empty "
        "new_empty_strided new_full new_ones new_zeros norm ones_like permute pixel_shuffle "
        "pixel_unshuffle repeat roll select slice split split_with_sizes squeeze stack t "
        "transpose tril triu unbind unfold unsqueeze upsample_nearest2d upsample_nearest3d "
        "upsample_trilinear3d view view_as_complex view_as_real zero zeros_like "
    ).split()
)
"""Operations that move, copy or read units wherever they lie, and keep none by their name.

A module may still fix their number, as an index does; then a trial keeps the group.
"""
