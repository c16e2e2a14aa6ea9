"""torch's refusal of DTensors beside plain tensors, in words of a call's arguments.

An argument is not refused before the call: hooks and forwards may lay plain tensors out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from l0func.internal import tree
from l0func.internal.sharding import are_dtensors_possible, is_dtensor
from l0func.internal.untyped import loose
from l0func.internal.whole import shown_layout

_MIXED = "mixed torch.Tensor and DTensor"
_MESHES = "different meshes"
_SHOWN = 4


class _Argument(NamedTuple):
    name: str
    tensor: Any


def in_words_of_arguments(error: Exception, /, **trees: Any) -> ValueError | None:
    """The error to raise instead, if arguments in two layouts explain it; else None.

    Args:
        error: What torch raised.
        **trees: The call's arguments: pytrees under the names that they have.
    """
    text = str(error)
    if not are_dtensors_possible() or not (_MIXED in text or _MESHES in text):
        return None
    found = list(_arguments(trees))
    laid = [argument for argument in found if is_dtensor(argument.tensor)]
    if not laid:
        return None
    plain = [argument for argument in found if not is_dtensor(argument.tensor)]
    if _MIXED in text:
        return _mixed(laid, plain) if plain else None
    mesh = loose(laid[0].tensor).device_mesh
    others = [argument for argument in laid if loose(argument.tensor).device_mesh != mesh]
    return _on_two_meshes(laid[0], others) if others else None


def _arguments(trees: dict[str, Any]) -> Iterator[_Argument]:
    for label, value in trees.items():
        for path, leaf in tree.walk(value):
            if isinstance(leaf, Tensor):
                yield _Argument(f"{path!r} in {label}" if path else label, leaf)


def _mixed(laid: list[_Argument], plain: list[_Argument]) -> ValueError:
    first = laid[0]
    return ValueError(
        f"{first.name} is a DTensor, {shown_layout(first.tensor)}, and plain tensors stand beside "
        f"it: {_names(plain)}. torch combines none with the other. Lay out what is the same in "
        "every process: torch.distributed.tensor.distribute_tensor(x, mesh, [Replicate()] * "
        f"mesh.ndim); or give whole tensors alone: l0func.gather(...) of {_names(laid)}."
    )


def _on_two_meshes(first: _Argument, others: list[_Argument]) -> ValueError:
    return ValueError(
        f"{first.name} is a DTensor on {loose(first.tensor).device_mesh}, and others are on "
        f"another mesh: {_names(others)}, such as {loose(others[0].tensor).device_mesh}. torch "
        "combines no two meshes. Lay all out on one: torch.distributed.tensor.distribute_tensor("
        "l0func.gather(x), mesh, [Replicate()] * mesh.ndim)."
    )


def _names(arguments: list[_Argument]) -> str:
    names = [argument.name for argument in arguments]
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
