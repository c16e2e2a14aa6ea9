"""The functions that a gate's formula may call, on tensors.

A formula is a plain function over numbers: arithmetic, comparisons, float literals, and the
functions here. Every backend has its own functions under these names.
"""

from __future__ import annotations

from typing import Any

import torch

from l0func.internal.untyped import untyped

NAMES = ("exp", "log", "log1p", "expm1", "sqrt", "where", "ndtr", "ndtri")

exp = torch.exp
log = torch.log
log1p = torch.log1p
expm1 = torch.expm1
sqrt = torch.sqrt
ndtr: Any = untyped.special.ndtr
ndtri: Any = untyped.special.ndtri


def where(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``; one of the two is no constant."""
    return torch.where(condition, yes, no)
