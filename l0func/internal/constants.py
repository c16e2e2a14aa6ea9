"""Numbers as tensors: on a card the last ones are kept, because a copy waits for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from l0func.internal.context import compiling
from l0func.internal.untyped import untyped


def whole_numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as an int64 tensor, which nobody may write to."""
    if device.type == "cuda" and not compiling():
        return kept_numbers(numbers, torch.int64, device)
    return torch.tensor(numbers, dtype=torch.int64, device=device)


@lru_cache(maxsize=1024)
def kept_numbers(numbers: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that later calls get too, and that nobody may write to."""
    with _outside():
        return torch.tensor(numbers, dtype=dtype, device=device)


@contextmanager
def _outside() -> Generator[None]:
    """A context outside of all modes and transforms around the call.

    Otherwise a kept tensor would be a fake one, or belong to a torch.func.jvp that has ended.
    """
    functorch: Any = untyped._C._functorch
    levels: list[Any] = []
    with untyped.utils._python_dispatch._disable_current_modes(), torch.inference_mode(False):
        try:
            while functorch.peek_interpreter_stack() is not None:
                levels.append(functorch.pop_dynamic_layer_stack())
            yield
        finally:
            for level in reversed(levels):
                functorch.push_dynamic_layer_stack(level)
