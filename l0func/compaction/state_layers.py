"""Layers of torch that count channels and have no tensor: a smaller state does not tell them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import nn

from l0func.compaction.near_sizes import NearSizes
from l0func.pure.part import Part


def check_layers_without_tensors(parts: Mapping[str, Part], near: NearSizes) -> None:
    """Refuse layers that keep a number of channels and have no tensor to show it.

    Args:
        parts: The submodules, by their paths.
        near: The sizes near every module.

    Raises:
        ValueError: Such a layer may stand behind units that went.
    """
    lost = {size.old for sizes in near.sizes.values() for size in sizes if size.new < size.old}
    for path, part in parts.items():
        channels = _channels(part)
        if any(size % channels == 0 for size in lost if channels > 1):
            raise ValueError(
                f"{part.kind.__name__} {path!r} counts channels and has no tensor, so the state "
                "does not say how many it keeps. Pass example_inputs, inputs of forward: a trace "
                "finds the units then."
            )


def _channels(part: Part) -> int:
    """The number of channels that a layer without tensors is made for, or divides; else 0."""
    if part.paths():
        return 0
    if issubclass(part.kind, nn.GroupNorm):
        return int(part.plain["num_channels"])
    if issubclass(part.kind, nn.ChannelShuffle):
        return int(part.plain["groups"])
    if issubclass(part.kind, nn.Unflatten):
        sizes = part.attribute("unflattened_size")
        return prod(size for size in sizes if isinstance(size, int))
    return 0
