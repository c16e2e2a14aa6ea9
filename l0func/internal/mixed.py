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

_MIXED_TEXT = "mixed torch.Tensor and DTensor"
_MESHES_TEXTS = (
    "different meshes",
    # As torch 2.9 to 2.12 say it.
    "Cross device mesh comm",
    "cross-mesh operation",
    "Sharding propagation failed",
)
_SHOWN_ARGUMENTS = 4


class _GivenTensor(NamedTuple):
    name: str
    tensor: Any


def in_words_of_arguments(error: Exception, /, **trees: Any) -> ValueError | None:
    """The error to raise instead, if arguments in two layouts explain it; else None.

    Args:
        error: What torch raised.
        **trees: The call's arguments: pytrees under the names that they have.
    """
    text = str(error)
    known = any(part in text for part in (_MIXED_TEXT, *_MESHES_TEXTS))
    if not known or not are_dtensors_possible():
        return None
    found = list(_given_tensors(trees))
    laid = [argument for argument in found if is_dtensor(argument.tensor)]
    if not laid:
        return None
    plain = [argument for argument in found if not is_dtensor(argument.tensor)]
    if _MIXED_TEXT in text:
        return _beside_plain(laid, plain) if plain else None
    mesh = loose(laid[0].tensor).device_mesh
    others = [argument for argument in laid if loose(argument.tensor).device_mesh != mesh]
    return _on_two_meshes(laid[0], others) if others else None


def _given_tensors(trees: dict[str, Any]) -> Iterator[_GivenTensor]:
    for label, value in trees.items():
        for path, leaf in tree.walk(value):
            if isinstance(leaf, Tensor):
                yield _GivenTensor(f"{path!r} in {label}" if path else label, leaf)


def _beside_plain(laid: list[_GivenTensor], plain: list[_GivenTensor]) -> ValueError:
    first = laid[0]
    return ValueError(
        f"{first.name} is a DTensor, {shown_layout(first.tensor)}, and plain tensors stand beside "
        f"it: {_all_of(plain)}. torch combines none with the other. Lay out what is the same in "
        "every process: torch.distributed.tensor.distribute_tensor(x, mesh, [Replicate()] * "
        f"mesh.ndim); or give whole tensors alone: l0func.gather(...) of {_all_of(laid)}."
    )


def _on_two_meshes(first: _GivenTensor, others: list[_GivenTensor]) -> ValueError:
    return ValueError(
        f"{first.name} is a DTensor on {loose(first.tensor).device_mesh}, and others are on "
        f"another mesh: {_all_of(others)}, such as {loose(others[0].tensor).device_mesh}. torch "
        "combines no two meshes. Lay all out on one: torch.distributed.tensor.distribute_tensor("
        "l0func.gather(x), mesh, [Replicate()] * mesh.ndim)."
    )


def _all_of(arguments: list[_GivenTensor]) -> str:
    names = [argument.name for argument in arguments]
    rest = len(names) - _SHOWN_ARGUMENTS
    return ", ".join(names[:_SHOWN_ARGUMENTS]) + (f" and {rest} more" if rest > 0 else "")
