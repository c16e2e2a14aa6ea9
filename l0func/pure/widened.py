"""Run a module in float64 although its forward casts to narrower types.

Norms of language models compute in float32, whatever type they are given. A comparison of two
networks in float64 then sees rounding errors; with these casts left out it sees none.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})


class Widened(TorchDispatchMode):
    """A context in which every operation that asks for a narrow float type gets float64.

    Attributes:
        has_changed: Whether any operation asked for one.
    """

    def __init__(self) -> None:
        cast("Any", super()).__init__()
        self.has_changed = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in _NARROW:
            self.has_changed = True
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)
