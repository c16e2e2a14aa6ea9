"""The functions that a gate's formula may call, on tensors.

A formula is a plain function over numbers: arithmetic, comparisons, float literals, and the
functions here. Every backend has its own functions under these names.
"""

from __future__ import annotations

from typing import Any

import torch

from l0func.internal.untyped import untyped

NAMES = ("exp", "log", "log1p", "expm1", "sqrt", "where", "clip", "ndtr", "ndtri")

exp = torch.exp
log = torch.log
log1p = torch.log1p
expm1 = torch.expm1
sqrt = torch.sqrt
ndtri: Any = untyped.special.ndtri


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``; one of the two is no constant."""
    return torch.where(condition, yes, no)


def ndtr(x: Any) -> Any:
    """The standard normal distribution function, accurate in its left tail too."""
    # torch.special.ndtr is 0 from -8.4 on.
    return 0.5 * untyped.special.erfc(x * -0.7071067811865476)


def clip(x: Any, low: float, high: float) -> Any:
    """``x`` limited to [low, high], with derivative 0 at both ends and outside; a NaN stays."""
    # torch.clamp passes the gradient of an x that lands exactly on an end.
    return untyped.nn.functional.hardtanh(x, low, high)
