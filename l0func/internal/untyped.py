"""torch without its types, for functions and methods that torch leaves untyped.

The package reads torch's untyped functions through these names, so that a strict type checker
accepts the calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

untyped: Any = torch
"""torch, for its functions without types."""

TENSOR: Any = Tensor
"""torch.Tensor, for its methods without types."""


def loose(tensor: Tensor, /) -> Any:
    """The tensor itself, for its methods without types."""
    return tensor


def listed(numbers: Tensor, /) -> list[int]:
    """An integer vector as a list of Python integers."""
    return loose(numbers).tolist()


def listed_floats(numbers: Tensor, /) -> list[float]:
    """A vector as a list of Python floats."""
    return loose(numbers).tolist()
