"""Memory formats in one row: :class:`l0func.pure.by_row.ByRow` answers with the usual one.

A memory format such as ``torch.channels_last`` changes how fast a network runs, and no value.
vmap knows none but the usual one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from l0func.internal.untyped import TENSOR

_USUAL = (torch.contiguous_format, torch.preserve_format)


def without_format(named: Mapping[str, Any], /) -> dict[str, Any]:
    """Keyword arguments with the usual memory format in place of one that vmap does not know.

    Args:
        named: Keyword arguments of a torch function, ``memory_format`` among them.
    """
    return {**named, "memory_format": _usual_format(named["memory_format"])}


def _usual_format(memory_format: Any) -> Any:
    is_format = isinstance(memory_format, torch.memory_format)
    if is_format and memory_format not in _USUAL:
        return torch.contiguous_format
    return memory_format


def _format_by_position(mode: Any, func: Any, x: Any, *formats: Any, **named: Any) -> Any:
    return func(x, *map(_usual_format, formats), **named)


LAYOUT_HANDLERS: dict[Any, Any] = {
    TENSOR.contiguous: _format_by_position,
    TENSOR.is_contiguous: _format_by_position,
}
