"""Short texts of values, equal where the values are: specs, tensors and plain numbers."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.sharding import ShardLayout, is_dtensor
from l0func.internal.tree import LEAVES
from l0func.internal.untyped import loose
from l0func.spec.plan import GateSpec, plain_number

_SHORT = 200
_FEW_NUMBERS = 4


def described(name: str, value: Any, /) -> Iterator[tuple[str, str]]:
    """The name and the text of every part of a value.

    Args:
        name: The value's name.
        value: A gate spec, or a pytree of tensors, numbers, texts and specs.

    Yields:
        A part's name, such as ``params '0.weight'``, and its text.

    Raises:
        TypeError: A part is none of these.
    """
    for path, leaf in tree.walk(value):
        label = f"{name} {path!r}" if path else name
        if isinstance(leaf, GateSpec):
            yield from _of_spec(label, leaf)
        elif isinstance(leaf, Tensor):
            yield label, _of_tensor(leaf)
        elif isinstance(leaf, LEAVES):
            yield label, _short(repr(leaf))
        else:
            raise TypeError(
                "Processes compare gate specs and pytrees of tensors, numbers and texts; "
                f"{label} is {type(leaf).__name__}. Give its tensors, such as its state_dict()."
            )


def _of_spec(name: str, spec: GateSpec) -> Iterator[tuple[str, str]]:
    yield f"the gates of {name}", _short(", ".join(gate.name for gate in spec.gates))
    for gate in spec.gates:
        yield f"the gates {gate.name!r} of {name}", _as_json(gate.to_dict())
    for plan in (*spec.parameters, *spec.buffers):
        yield f"{plan.path!r} of {name}", _as_json(plan.to_dict())
    yield f"the attrs of {name}", _as_json(spec.attrs)


def _as_json(record: Any) -> str:
    return _short(json.dumps(record, default=plain_number))


def _short(text: str) -> str:
    """The text, or its beginning with a digest of the whole."""
    if len(text) <= _SHORT:
        return text
    return f"{text[:_SHORT]}... (SHA-256 {_sha(text.encode())})"


def _sha(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _of_tensor(t: Tensor) -> str:
    kind = f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"
    if is_dtensor(t):
        return _of_dtensor(kind, loose(t))
    if t.is_meta or t.layout != torch.strided:
        return f"{kind} on {t.device.type} as {t.layout}"
    return f"{kind}, {_of_values(t)}"


def _of_dtensor(kind: str, t: Any) -> str:
    """The layout; and the values, where every process has all of them."""
    layout = ShardLayout(t.device_mesh, tuple(t.placements))
    ranks = layout.mesh.mesh.tolist()
    text = f"{kind}, {layout} of the ranks {ranks}"
    is_whole = all(p.is_replicate() for p in layout.placements)
    return f"{text}, {_of_values(t.to_local())}" if is_whole else text


def _of_values(t: Tensor) -> str:
    own = loose(t.detach()).resolve_conj().resolve_neg()
    if own.numel() <= _FEW_NUMBERS:
        return f"with {own.tolist()}"
    data: Tensor = own.cpu().contiguous().reshape(-1).view(torch.uint8)
    # Read in place: torch needs no numpy for it, and a large tensor no second copy.
    view = (ctypes.c_char * data.numel()).from_address(data.data_ptr())
    return f"with values of SHA-256 {_sha(view)}"
