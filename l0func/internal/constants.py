"""Whole numbers as tensors: on a card the last ones are kept, because a copy waits for it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.internal.untyped import untyped


def whole_numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as an int64 tensor, which nobody may write to."""
    is_kept = device.type == "cuda" and not compiling()
    return _kept_numbers(numbers, device) if is_kept else _copied_numbers(numbers, device)


def _copied_numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


@lru_cache(maxsize=1024)
def _kept_numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    # A mode around this call, such as fake tensors', would be kept with the numbers.
    with untyped.utils._python_dispatch._disable_current_modes(), torch.inference_mode(False):
        return _copied_numbers(numbers, device)
