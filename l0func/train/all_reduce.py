"""The mean over the rows of all processes in a group, in one collective for each precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.groups import ProcessGroup, check_member
from l0func.internal.tree import TreeT
from l0func.internal.untyped import TENSOR, untyped
from l0func.train.numbers import whole_number


@torch.no_grad()
def all_reduce_mean(values: TreeT, rows: int, /, group: ProcessGroup | None = None) -> TreeT:
    r"""The mean of each tensor over all processes, weighted by their rows.

    .. math:: \bar t = \sum_r n_r t_r / \sum_r n_r

    For a loss that is a mean over rows, it gives the value and the gradients of the whole batch,
    also where the last batch is uneven. A process without rows adds zeros, whatever its tensors
    hold; if no process has rows, all values are 0. It is a collective: every process of the group
    calls it, with tensors of the same shapes in the same order, and gets the same bits.

    Args:
        values: A pytree of tensors. Whole numbers and booleans are rounded again.
        rows: The number n of rows in this process, at least 0.
        group: The process group; None is the whole world.

    Returns:
        A pytree in the same structure, with the same dtypes.

    Raises:
        RuntimeError: ``torch.distributed`` has no group yet.
        TypeError: ``rows`` is no whole number.
        ValueError: ``rows`` is negative, a tensor is a DTensor, or this process is not in the
            group.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import distributed
        >>> store = distributed.HashStore()
        >>> distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> l0.all_reduce_mean({"loss": torch.tensor(2.0)}, 8)  # 8 rows in this process
        {'loss': tensor(2.)}
        >>> distributed.destroy_process_group()
    """
    check_member("all_reduce_mean", group)
    number = whole_number("rows", rows)
    if number < 0:
        raise ValueError(f"A process has at least 0 rows; got {rows}.")
    named = tree.leaves(values, "values")
    for path, t in named.items():
        _check_no_shards(path, t)
    means: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        own = {path: t for path, t in named.items() if _sent_as(t) == dtype}
        if own:
            means |= _group_means(own, dtype, number, group)
    return tree.rebuild(values, means)


def _check_no_shards(path: str, t: Tensor) -> None:
    if hasattr(t, "placements"):
        raise ValueError(
            f"all_reduce_mean takes plain tensors; {path!r} is a DTensor. Its placements already "
            "say which processes hold what: leave reduce out, or l0func.gather it first."
        )


def _sent_as(t: Tensor) -> torch.dtype:
    """The precision of a tensor's sums: counts are exact up to 2⁵³."""
    is_real = t.is_floating_point() or t.is_complex()
    is_wide = t.dtype in (torch.float64, torch.complex128)
    return torch.float64 if is_wide or not is_real else torch.float32


def _group_means(
    named: dict[str, Tensor], dtype: torch.dtype, rows: int, group: ProcessGroup | None
) -> dict[str, Tensor]:
    flats = [_flat_numbers(t).to(dtype) for t in named.values()]
    numbers = torch.cat(flats)
    # Not times 0: a mean over no rows is NaN.
    weighted = numbers * rows if rows else torch.zeros_like(numbers)
    sums = torch.cat([weighted, weighted.new_full((1,), rows)])
    distributed: Any = torch.distributed
    distributed.all_reduce(sums, group=group)
    means = sums[:-1] / sums[-1].clamp(min=1.0)
    parts: list[Tensor] = untyped.split(means, [len(flat) for flat in flats])
    pairs = zip(named.items(), parts, strict=True)
    return {path: _as_before(part, t) for (path, t), part in pairs}


def _flat_numbers(t: Tensor) -> Tensor:
    real = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    return real.reshape(-1)


def _as_before(numbers: Tensor, t: Tensor) -> Tensor:
    """Numbers in the shape and dtype of a tensor."""
    if t.is_complex():
        return torch.view_as_complex(numbers.reshape(*t.shape, 2)).to(t.dtype)
    if not t.is_floating_point():
        numbers = TENSOR.round(numbers)
    return numbers.reshape(t.shape).to(t.dtype)
