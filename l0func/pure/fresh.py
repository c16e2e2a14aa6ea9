"""Handlers for functions that make a tensor; :class:`l0func.pure.keyed.Keyed` uses them.

If each row has its own key, each row also gets its own copy of a new tensor. A module may then
write a row's values into it, as it may outside vmap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import is_mapped_here, is_mapped_with
from l0func.internal.shared import for_each_row
from l0func.internal.untyped import TENSOR, untyped


def _make_for_rows(mode: Any, func: Any, *args: Any, **named: Any) -> Any:
    made = func(*args, **named)
    key: Tensor | None = mode.key
    if key is None or "out" in named or not is_mapped_here(key) or not _is_plain(made):
        return made
    return made if is_mapped_with(key, [made]) else for_each_row(made, key)


def _is_plain(made: Any) -> bool:
    # A leaf that needs a gradient is no place to write to.
    is_strided = type(made) is Tensor and made.layout == torch.strided
    return is_strided and not (made.requires_grad and made.is_leaf)


_FRESH_FUNCTIONS = (
    "clone",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "tensor",
    "zeros",
    "zeros_like",
)
_FRESH_METHODS = ("clone", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
FRESH_HANDLERS: dict[Any, Any] = {
    **{getattr(untyped, name): _make_for_rows for name in _FRESH_FUNCTIONS},
    **{getattr(TENSOR, name): _make_for_rows for name in _FRESH_METHODS},
}
