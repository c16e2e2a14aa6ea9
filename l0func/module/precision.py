"""Gate locations as parameters that stay in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l0func.gates.checks import Gates
from l0func.module.checkpoint import stored
from l0func.module.watch import watch_decay


class GateDict(nn.ParameterDict):
    """Gate locations by stored name, in float32, or in float64 after a cast to float64.

    A cast of the module to half precision leaves them in float32: their updates are smaller than
    half a step of a 16-bit number, so that they would not move.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        parent.__setstate__(state)
        watch_decay({name.replace("/", "."): gate for name, gate in self.items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GateDict:
        parent: Any = super()
        return parent._apply(_in_gate_precision(fn), recurse)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: Any,
        local_metadata: Any,
        strict: Any,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        # load_state_dict(assign=True) keeps the tensors of the file.
        precise = {name: _precise(saved) for name, saved in state_dict.items()}
        parent: Any = super()
        parent._load_from_state_dict(
            precise, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def gate_dict(gates: Gates) -> GateDict:
    """Gate locations by name as parameters."""
    locations = {name: nn.Parameter(gate) for name, gate in gates.items()}
    watch_decay(locations)
    return GateDict({stored(name): location for name, location in locations.items()})


def gate_precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype for gates that somebody asks to have in ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def kept_integers(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """An integer tensor after a move of its module; a cast leaves its type.

    Args:
        fn: The move or cast, as ``nn.Module._apply`` takes it.
        tensor: The tensor.
    """
    moved = fn(tensor)
    if moved.dtype == tensor.dtype:
        return moved
    return moved.to(tensor.dtype) if tensor.is_meta else tensor.to(moved.device)


def _in_gate_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def changed(tensor: Tensor) -> Tensor:
        new = fn(tensor)
        dtype = gate_precision(new.dtype)
        if new.dtype == dtype or not tensor.is_floating_point():
            return new
        # From the old values: the new ones are rounded already.
        return new.to(dtype) if tensor.is_meta else tensor.to(new.device, dtype)

    return changed


def _precise(saved: Any) -> Any:
    if isinstance(saved, Tensor) and saved.is_floating_point():
        return saved.to(gate_precision(saved.dtype))
    return saved
