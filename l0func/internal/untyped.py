"""torch without its types, for functions and methods that torch leaves untyped.

Every wing reads torch's untyped functions through these names, so that no file needs a cast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

untyped: Any = torch
"""torch, for those functions that have no types."""

TENSOR: Any = Tensor
"""torch.Tensor, for those methods that have no types."""


def loose(tensor: Tensor, /) -> Any:
    """The tensor itself, for those methods that have no types."""
    return tensor


def listed(numbers: Tensor, /) -> list[int]:
    """An integer vector as a list of Python integers."""
    return loose(numbers).tolist()
