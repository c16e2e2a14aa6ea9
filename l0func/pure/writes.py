"""Handlers for functions that write in place; :class:`l0func.pure.keyed.Keyed` uses them.

A row's values do not fit into a tensor that all rows share, and vmap says so in words of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from l0func.internal import tree
from l0func.internal.context import compiling, is_mapped_here, is_mapped_with
from l0func.internal.function_kinds import WRITERS
from l0func.internal.interception import function_name
from l0func.internal.source_line import calling_line


def check_target(mode: Any, func: Any, target: Any, values: Iterable[Any]) -> None:
    """Refuse to write the values of single rows into a tensor that all rows share.

    Args:
        mode: The context; its key is mapped if each row has its own.
        func: The torch function that writes.
        target: The tensor to write into.
        values: Pytrees with the values to write.

    Raises:
        ValueError: A value differs from row to row, and the target has no rows.
    """
    key: Tensor | None = mode.key
    if key is None or compiling() or type(target) is not Tensor or not is_mapped_here(key):
        return
    if is_mapped_with(key, [target]):
        return
    leaves = [leaf for _, leaf in tree.walk(list(values))]
    if any(type(leaf) is Tensor and is_mapped_with(key, [leaf]) for leaf in leaves):
        raise ValueError(
            f"{function_name(func)} writes values of single rows{calling_line()} into a tensor "
            "that all rows share: each example has its own mask, and the module runs once for "
            "all. Write it out of place, as in x = x + y, or write into x.clone(); inside "
            "per_example a clone, like a tensor from torch.zeros, has its own values for each row."
        )


def _checked_write(mode: Any, func: Any, /, *args: Any, **named: Any) -> Any:
    target, values = args[0] if args else None, (*args[1:], *named.values())
    check_target(mode, func, target, values)
    return func(*args, **named)


WRITE_HANDLERS: dict[Any, Any] = dict.fromkeys(WRITERS, _checked_write)
