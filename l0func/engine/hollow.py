"""Tensors that hold no numbers: what the stand-ins for parameters are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from l0func.internal.untyped import untyped

_TAKES_MODES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)

Stand = TypeVar("Stand", bound=Tensor)


def hollow(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of this shape, with the dtype and device of another one.

    A subclass needs storage of its own, and nothing should read it: code that bypasses
    ``__torch_function__`` would miss the gates. NaN makes such a mistake visible in the output.
    Expanded, it takes the memory of one number.
    """
    nan = torch.full((), float("nan"), dtype=like.dtype, device=like.device)
    return nan.expand(shape)


def as_kind(tensor: Tensor, kind: type[Stand]) -> Stand:
    """The tensor as a subclass.

    Before 2.6, torch refuses that under a mode for dispatch, such as a ``FlopCounterMode``.
    """
    found: Any = tensor
    if _TAKES_MODES:
        return found.as_subclass(kind)
    with untyped.utils._python_dispatch._disable_current_modes():
        return found.as_subclass(kind)
