"""Short texts of values, equal where the values are: specs, tensors and plain numbers.

The text for values of a DTensor is one of this process's piece, and names its holders.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.sharding import ShardLayout, is_dtensor
from l0func.internal.tree import LEAVES
from l0func.internal.untyped import loose
from l0func.sharding.holders import holders, root_ranks
from l0func.spec.plan import GateSpec, plain_number

_SHORT = 200
_FEW_NUMBERS = 4


class Description(NamedTuple):
    """A part of a value in words."""

    name: str
    """Such as ``params '0.weight'``."""

    text: str
    """Equal where the part is."""

    holders: tuple[int, ...] | None = None
    """The ranks of the processes that hold it; None for all."""


def described(name: str, value: Any, /) -> Iterator[Description]:
    """The name and the text of every part of a value.

    Args:
        name: The value's name.
        value: A gate spec, or a pytree of tensors, numbers, texts and specs.

    Raises:
        TypeError: A part is none of these.
    """
    for path, leaf in tree.walk(value):
        label = f"{name} {path!r}" if path else name
        if isinstance(leaf, GateSpec):
            yield from _of_spec(label, leaf)
        elif isinstance(leaf, Tensor):
            yield from _of_tensor(label, leaf)
        elif isinstance(leaf, LEAVES):
            yield Description(label, _short(repr(leaf)))
        else:
            raise TypeError(
                "Processes compare gate specs and pytrees of tensors, numbers and texts; "
                f"{label} is {type(leaf).__name__}. Give its tensors, such as its state_dict()."
            )


def _of_spec(name: str, spec: GateSpec) -> Iterator[Description]:
    names = ", ".join(gate.name for gate in spec.gates)
    yield Description(f"the gates of {name}", _short(names))
    for gate in spec.gates:
        yield Description(f"the gates {gate.name!r} of {name}", _as_json(gate.to_dict()))
    for plan in (*spec.parameters, *spec.buffers):
        yield Description(f"{plan.path!r} of {name}", _as_json(plan.to_dict()))
    yield Description(f"the attrs of {name}", _as_json(spec.attrs))


def _as_json(record: Any) -> str:
    return _short(json.dumps(record, default=plain_number))


def _short(text: str) -> str:
    """The text, or its beginning with a digest of the whole."""
    if len(text) <= _SHORT:
        return text
    return f"{text[:_SHORT]}... (SHA-256 {_sha(text.encode())})"


def _sha(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _of_tensor(label: str, t: Tensor) -> Iterator[Description]:
    kind = f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"
    if is_dtensor(t):
        yield from _of_dtensor(label, kind, loose(t))
    elif t.is_meta or t.layout != torch.strided:
        yield Description(label, f"{kind} on {t.device.type} as {t.layout}")
    else:
        yield Description(label, f"{kind}, {_of_values(t)}")


def _of_dtensor(label: str, kind: str, t: Any) -> Iterator[Description]:
    """The layout; and the values of this process's piece, for all that hold the piece."""
    layout = ShardLayout(t.device_mesh, tuple(t.placements))
    yield Description(label, f"{kind}, {layout} of the ranks {root_ranks(layout.mesh)}")
    own, local = holders(layout), t.to_local()
    if own and not local.is_meta:
        text = f"a piece of shape {tuple(local.shape)}, {_of_values(local)}"
        yield Description(label, text, own)


def _of_values(t: Tensor) -> str:
    own = loose(t.detach()).resolve_conj().resolve_neg()
    if own.numel() <= _FEW_NUMBERS:
        return f"with {own.tolist()}"
    data: Tensor = own.cpu().contiguous().reshape(-1).view(torch.uint8)
    # Read in place: torch needs no numpy for it, and a large tensor no second copy.
    view = (ctypes.c_char * data.numel()).from_address(data.data_ptr())
    return f"with values of SHA-256 {_sha(view)}"
