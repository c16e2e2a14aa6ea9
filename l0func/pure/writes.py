"""Handlers for functions that write in place; :class:`l0func.pure.keyed.Keyed` uses them.

A row's values do not fit into a tensor that all rows share, and vmap says so in words of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from l0func.internal import tree
from l0func.internal.context import compiling, is_mapped_here, is_mapped_with
from l0func.internal.function_kinds import WRITERS
from l0func.internal.interception import function_name
from l0func.internal.shared import shared_value
from l0func.internal.source_line import calling_line


def values_for(mode: Any, func: Any, target: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values to write into a tensor; a value of single rows does not fit into a shared one.

    Args:
        mode: The context; its key is mapped if each row has its own.
        func: The torch function that writes.
        target: The tensor to write into.
        values: Pytrees with the values to write.

    Returns:
        The values. Integers and booleans that are the same in all rows come without rows, if the
        target has none.

    Raises:
        ValueError: A value differs from row to row, and the target has no rows.
    """
    key: Tensor | None = mode.key
    if key is None or compiling() or type(target) is not Tensor or not is_mapped_here(key):
        return values
    if is_mapped_with(key, [target]):
        return values
    shared: tuple[Any, ...] = tree.map_tensors(partial(_without_rows, key), values)
    leaves = [leaf for _, leaf in tree.walk(list(shared))]
    if any(type(leaf) is Tensor and is_mapped_with(key, [leaf]) for leaf in leaves):
        raise ValueError(
            f"{function_name(func)} writes values of single rows{calling_line()} into a tensor "
            "that all rows share: each example has its own mask, and the module runs once for "
            "all. Write it out of place, as in x = x + y, or write into x.clone(); inside "
            "per_example a clone, like a tensor from torch.zeros, has its own values for each row."
        )
    return shared


def _without_rows(key: Tensor, value: Tensor) -> Tensor:
    """An integer or boolean tensor without rows, if all are equal; any other as it is."""
    # Equal floats may have unequal gradients.
    if type(value) is not Tensor or value.is_floating_point() or value.is_complex():
        return value
    shared = shared_value(value, key)
    return value if shared is None else shared


def checked_write(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
    """A handler: the write, unless it gives values of single rows to a tensor that has none."""
    target = args[0] if args else None
    values, others = values_for(mode, func, target, (args[1:], named))
    return func(*args[:1], *values, **others)


WRITE_HANDLERS: dict[Any, Any] = dict.fromkeys(WRITERS, checked_write)
