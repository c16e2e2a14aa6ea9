"""The cuts that lead from a module's shapes to those of a smaller state.

A state tells how many slices each tensor keeps, and not which ones. Sizes need the number only, so
a cut here keeps the first slices; in tensors that are packed, the first ones in each tile.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l0func.compaction.cut import SubmoduleCut
from l0func.pure.part import Part

_ADVICE = "Give the full-sized module that the state was compacted from."


def state_cuts(
    parts: Mapping[str, Part], own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[SubmoduleCut]:
    """The cut of every submodule.

    Args:
        parts: The submodules, by their paths.
        own: The module's tensors.
        tensors: The state's tensors, with the same paths and numbers of dimensions.

    Raises:
        ValueError: A tensor of the state is larger than the module's, or cuts a tile.
    """
    cuts: list[SubmoduleCut] = []
    for path, part in parts.items():
        own_tensors: dict[str, Tensor] = {}
        kept: dict[str, dict[int, Tensor]] = {}
        for name, tensor_path in part.paths().items():
            own_tensors[name] = own[tensor_path]
            tiles = _tile_count(part, name)
            of_tensor = _kept_first(tensor_path, own[tensor_path], tensors[tensor_path], tiles)
            if of_tensor:
                kept[name] = of_tensor
        cuts.append(SubmoduleCut(path, part, own_tensors, kept, _ADVICE))
    return cuts


def _kept_first(path: str, own: Tensor, tensor: Tensor, tiles: int) -> dict[int, Tensor]:
    """For each dimension that is smaller in the state: a bool vector, True at kept slices."""
    kept: dict[int, Tensor] = {}
    for dim, (size, small) in enumerate(zip(own.shape, tensor.shape, strict=True)):
        if small > size:
            raise ValueError(
                f"The state has {path!r} in shape {tuple(tensor.shape)}, and the module in "
                f"{tuple(own.shape)}: a state can be smaller than its module, and this one is "
                f"larger along dimension {dim}."
            )
        if small < size:
            count = tiles if dim == 0 else 1
            if small % count:
                raise ValueError(
                    f"The state has {path!r} in shape {tuple(tensor.shape)}: its first dimension "
                    f"holds {count} equal tiles, and {small} is no multiple of {count}."
                )
            kept[dim] = _first_in_tiles(size, small, count)
    return kept


def _first_in_tiles(size: int, small: int, tiles: int) -> Tensor:
    places = torch.arange(size, device="cpu") % (size // tiles)
    return places < small // tiles


def _tile_count(part: Part, name: str) -> int:
    """The number of equal tiles along the first dimension of one of a module's tensors."""
    if issubclass(part.kind, nn.MultiheadAttention):
        return 3 if name.startswith("in_proj") else 1
    is_layer, is_cell = (issubclass(part.kind, k) for k in (nn.RNNBase, nn.RNNCellBase))
    if not (is_layer or is_cell) or name.startswith("weight_hr"):
        return 1
    kind: str = part.attribute("mode") if is_layer else part.kind.__name__
    return {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}.get(kind, 1)
