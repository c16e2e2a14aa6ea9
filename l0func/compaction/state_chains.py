"""A check of a smaller state: in a chain of layers each one reads what the one before it makes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from l0func.compaction.near_sizes import Shapes
from l0func.compaction.resize import CONVOLUTIONS
from l0func.pure.part import Part
from l0func.pure.places import ChildPlace

_LAYERS = (nn.Linear, *CONVOLUTIONS)
_BETWEEN = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


def check_chains(parts: Mapping[str, Part], before: Shapes, after: Shapes) -> None:
    """Refuse shapes in which a layer of an nn.Sequential reads other units than are made.

    Args:
        parts: The submodules, by their paths.
        before: The shapes of the module's tensors.
        after: The shapes of the state's tensors.

    Raises:
        ValueError: Two layers in a row do not fit, and they did before.
    """
    in_order = list(parts.values())
    for part in in_order:
        if part.kind is not nn.Sequential:
            continue
        maker: str | None = None
        for place in part.children.values():
            child = in_order[place.number] if isinstance(place, ChildPlace) else None
            maker = _next_maker(maker, child, before, after)


def _next_maker(
    maker: str | None, child: Part | None, before: Shapes, after: Shapes
) -> str | None:
    """The weight that makes the units after one more layer; None if it is not known."""
    if child is None or not issubclass(child.kind, _LAYERS):
        keeps = child is not None and child.kind.__module__ in _BETWEEN and not child.paths()
        return maker if keeps else None
    weight = child.paths().get("weight")
    if weight is None or child.attribute("groups") not in (None, 1):
        return None
    if maker is not None and before[weight][1] == before[maker][0]:
        _check_maker_and_reader(maker, weight, after)
    return weight


def _check_maker_and_reader(maker: str, reader: str, after: Shapes) -> None:
    made, read = after[maker][0], after[reader][1]
    # A constant reads nothing, whatever comes.
    if read not in (made, 0):
        raise ValueError(
            f"The state has {maker!r} in shape {after[maker]} and {reader!r} in {after[reader]}: "
            f"one makes {made} units and the other reads {read}. No removal of units leaves that."
        )
