"""What an ``L0Module``'s state_dict holds beside parameters and buffers, and its checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from l0func.gates.checks import check_values
from l0func.internal.strict_json import parse, shown
from l0func.internal.untyped import listed
from l0func.spec.differences import another_distribution
from l0func.spec.plan import GateSpec


def stored(name: str) -> str:
    """The name of a gate vector among parameters; torch allows no dot there."""
    return name.replace(".", "/")


def extra_state(spec: GateSpec, draws: int) -> Tensor:
    """The spec and the number of draws as JSON text in bytes, shape ``(n,)``.

    The number has one width, so that the shape is the same in every checkpoint of a module.
    """
    text = f'{{"draws": {draws:20d}, "spec": {json.dumps(spec.to_json())}}}'
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()


def read_extra_state(state: Any) -> dict[str, Any]:
    """The dict with ``"spec"`` and ``"draws"`` in a checkpoint; older ones hold it as it is.

    Raises:
        ValueError: It is no such state.
    """
    read: Any = state
    if isinstance(state, Tensor):
        if state.dtype != torch.uint8:
            raise _no_extra_state(f"a tensor of {state.dtype}")
        text = bytes(listed(state.flatten())).decode(errors="replace")
        try:
            read = parse(text)
        except ValueError:
            raise _no_extra_state(repr(text[:40])) from None
    if not isinstance(read, dict):
        raise _no_extra_state(f"a {type(read).__name__}")
    found = cast("dict[str, Any]", read)
    if not {"spec", "draws"} <= found.keys():
        raise _no_extra_state(f"a dict with the keys {str(list(found))[:80]}")
    spec, draws = found["spec"], found["draws"]
    if not isinstance(spec, str) or type(draws) is not int or draws < 0:
        raise _no_extra_state(f"the spec {shown(spec)} and {shown(draws)} draws")
    return found


def _no_extra_state(got: str) -> ValueError:
    return ValueError(
        "The checkpoint's '_extra_state' holds an L0Module's spec and number of draws, as JSON in "
        f"a tensor of bytes; got {got}. A cast or an average of all tensors has changed it: save "
        "the module's own state_dict."
    )


def check_fits(state_dict: Mapping[str, Any], prefix: str, spec: GateSpec) -> None:
    """Refuse a checkpoint of another spec or of a plain module, or with NaN among its gates.

    Args:
        state_dict: The checkpoint.
        prefix: The module's path in it, with a dot; empty for the root.
        spec: The module's spec.

    Raises:
        ValueError: The checkpoint does not fit.
    """
    _check_not_plain(state_dict, prefix, spec)
    saved = state_dict.get(f"{prefix}_extra_state")
    if saved is not None:
        _check_same_spec(GateSpec.from_json(read_extra_state(saved)["spec"]), spec)
    gates: dict[str, Tensor] = {}
    for gate in spec.gates:
        path = f"{prefix}log_alpha.{stored(gate.name)}"
        if path in state_dict:
            gates[gate.name] = state_dict[path]
    check_values(gates)


def _check_not_plain(state_dict: Mapping[str, Any], prefix: str, spec: GateSpec) -> None:
    """Refuse the names of the wrapped module: with ``strict=False`` torch would load nothing."""
    paths = [p.path for p in spec.parameters]
    if any(f"{prefix}module.{path}" in state_dict for path in paths):
        return
    plain = [path for path in paths if f"{prefix}{path}" in state_dict]
    if plain:
        raise ValueError(
            f"The state_dict is that of a plain module: it has {prefix + plain[0]!r}, and this "
            f"L0Module has {prefix + 'module.' + plain[0]!r}. Load it into the module inside, "
            "net.module.load_state_dict(state), where net is the L0Module."
        )


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
    if saved == spec:
        return
    difference = another_distribution(saved, spec)
    if difference is not None:
        raise ValueError(
            f"The checkpoint was saved with another gate spec: {difference} Build the L0Module "
            "with that distribution, as L0Module(..., distribution=...)."
        )
    raise ValueError(
        "The checkpoint was saved with another gate spec: the architecture or the rules changed. "
        f"It has\n{saved}\nand this module\n{spec}"
    )
