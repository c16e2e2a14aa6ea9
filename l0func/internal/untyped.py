"""torch without its types, for functions and methods that have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

untyped: Any = torch
"""torch, for those of its functions that have no types."""


TENSOR: Any = Tensor
"""torch.Tensor, for those of its methods that have no types."""


def loose(tensor: Tensor, /) -> Any:
    """The tensor, for those of its methods that have no types."""
    return tensor


def listed(numbers: Tensor, /) -> list[int]:
    """A vector of integers as Python's."""
    return loose(numbers).tolist()
