"""Resizers for recurrent layers and recurrent cells; the table in ``resize`` lists them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.compaction.cut import SubmoduleCut
from l0func.pure.part import Part
from l0func.smaller import UnequalRecurrent, recurrent_names

_FLAT_WEIGHTS = frozenset(
    {"_flat_weights", "_flat_weights_names", "_flat_weight_refs", "_all_weights"}
)
"""Attributes of torch's recurrent layers that only their own methods read."""


class _Width(NamedTuple):
    """One layer and direction: the number of kept hidden units and of kept projected units."""

    hidden: int
    projected: int


def resize_recurrent(cut: SubmoduleCut) -> Part:
    """Resize an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``.

    Layers with unequal widths become a chain, ``l0func.smaller.UnequalRecurrent``.

    Raises:
        ValueError: Tensors in one layer lose different units.
    """
    plain = cut.part.plain
    directions = 2 if plain["bidirectional"] else 1
    count: int = plain["num_layers"] * directions
    widths = [_kept_width(cut, number) for number in range(count)]
    hidden = tuple(width.hidden for width in widths)
    projected = tuple(width.projected for width in widths)
    changed: dict[str, Any] = {"input_size": cut.kept_count("weight_ih_l0", 1)}
    # torch cannot hold a projection that is as wide as the hidden units: it treats it as absent.
    if len(set(widths)) == 1 and hidden != projected:
        changed |= {"hidden_size": hidden[0], "proj_size": projected[0]}
        return replace(cut.part, plain=plain | changed)
    changed |= {"hidden_sizes": hidden, "proj_sizes": projected}
    part = _without_flat_weights(cut.part)
    return replace(part, kind=UnequalRecurrent, plain=part.plain | changed)


def _without_flat_weights(part: Part) -> Part:
    """The part without torch's lists of weights: weak references in them cannot be pickled."""
    plain = {name: value for name, value in part.plain.items() if name not in _FLAT_WEIGHTS}
    mutable = {name: value for name, value in part.mutable.items() if name not in _FLAT_WEIGHTS}
    return replace(part, plain=plain, mutable=mutable)


def _kept_width(cut: SubmoduleCut, number: int) -> _Width:
    """One layer's width in one direction, after a check that its tensors keep the same units."""
    plain = cut.part.plain
    has_projection = plain["proj_size"] > 0
    names = recurrent_names(number, plain["bidirectional"], plain["bias"], has_projection)
    input_weight, hidden_weight, *others = names
    tiles = {"LSTM": 4, "GRU": 3}.get(plain["mode"], 1)
    kept = _kept_units(cut, input_weight, tiles)
    for name in (hidden_weight, *(other for other in others if other.startswith("bias"))):
        if not torch.equal(_kept_units(cut, name, tiles), kept):
            raise cut.cannot_resize(f"{input_weight!r} and {name!r} lose different units")
    reader = names[-1] if has_projection else hidden_weight
    if not torch.equal(cut.kept(reader, 1), kept):
        raise cut.cannot_resize(
            f"the rows of {input_weight!r} and the columns that read its units lose different "
            f"units"
        )
    if not has_projection:
        return _Width(int(kept.sum()), 0)
    cut.check_same((reader, 0), (hidden_weight, 1))
    return _Width(int(kept.sum()), cut.kept_count(reader, 0))


def resize_cell(cut: SubmoduleCut) -> Part:
    """Resize an ``nn.LSTMCell``, ``nn.GRUCell`` or ``nn.RNNCell``.

    Raises:
        ValueError: Its tensors lose different units.
    """
    size = int(cut.part.plain["hidden_size"])
    tiles = cut.shape("weight_ih")[0] // size
    kept = _kept_units(cut, "weight_ih", tiles)
    for name in ("weight_hh", "bias_ih", "bias_hh"):
        if cut.has(name) and not torch.equal(_kept_units(cut, name, tiles), kept):
            raise cut.cannot_resize(f"'weight_ih' and {name!r} lose different units")
    if not torch.equal(cut.kept("weight_hh", 1), kept):
        raise cut.cannot_resize(
            "the rows of 'weight_ih' and the columns of 'weight_hh' lose different units"
        )
    changed = {"input_size": cut.kept_count("weight_ih", 1), "hidden_size": int(kept.sum())}
    return replace(cut.part, plain=cut.part.plain | changed)


def _kept_units(cut: SubmoduleCut, name: str, tiles: int) -> Tensor:
    """A bool vector over hidden units; all tiles in a tensor must keep the same ones."""
    kept = cut.kept(name, 0).reshape(tiles, -1)
    if not torch.equal(kept, kept[:1].expand_as(kept)):
        raise cut.cannot_resize(
            f"{name!r} loses different units in its {tiles} tiles; l0func.tiles(0, {tiles}) names "
            "all rows of a unit"
        )
    return kept[0]
