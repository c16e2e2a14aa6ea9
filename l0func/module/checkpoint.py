"""What an ``L0Module``'s state_dict holds beside parameters and buffers, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l0func.gates.checks import check_values
from l0func.spec.plan import GateSpec


def stored(name: str) -> str:
    """The name of a gate vector among parameters; torch allows no dot there."""
    return name.replace(".", "/")


def check_fits(state_dict: Mapping[str, Any], prefix: str, spec: GateSpec) -> None:
    """Refuse a checkpoint of another spec, or with NaN among its gates.

    Args:
        state_dict: The checkpoint.
        prefix: The module's path in it, with a dot; empty for the root.
        spec: The module's spec.

    Raises:
        ValueError: The checkpoint does not fit.
    """
    saved = state_dict.get(f"{prefix}_extra_state")
    if saved is not None:
        _check_same_spec(GateSpec.from_json(saved["spec"]), spec)
    gates: dict[str, Tensor] = {}
    for gate in spec.gates:
        path = f"{prefix}log_alpha.{stored(gate.name)}"
        if path in state_dict:
            gates[gate.name] = state_dict[path]
    check_values(gates)


def saved_key(state_dict: Mapping[str, Any], path: str, key: Tensor) -> Tensor | None:
    """The key in a checkpoint, on the device of the module's own; None if there is none.

    Raises:
        ValueError: It is not a key.
    """
    saved = state_dict.get(path)
    if saved is None:
        return None
    if not isinstance(saved, Tensor) or saved.dtype != torch.int64 or saved.shape != (2,):
        got = f"{tuple(saved.shape)} of {saved.dtype}" if isinstance(saved, Tensor) else saved
        raise ValueError(
            f"The checkpoint's {path!r} is a key, an int64 tensor of shape (2,); got {got}. A "
            "cast or an average of all tensors has changed it: save the module's own state_dict."
        )
    return saved.detach().clone().to(key.device)


def _check_same_spec(saved: GateSpec, spec: GateSpec) -> None:
    if saved != spec:
        raise ValueError(
            "The checkpoint was saved with another gate spec: the architecture, the rules or the "
            f"distribution changed. It has\n{saved}\nand this module\n{spec}"
        )
