"""The widths that each layer's time depends on: found by making the groups smaller in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn

from l0func.internal.watch import listed_names, warn_user
from l0func.spec.plan import GateSpec
from l0func.timing.layers import layer_of, layer_shapes
from l0func.timing.networks import Networks

Width = tuple[str, int]
"""A parameter path and a dimension."""

Groups = frozenset[str]

_BASE = 0.75


def widths_by_layer(
    networks: Networks, run: Callable[[nn.Module], Any]
) -> dict[str, tuple[Width, ...]]:
    """For each layer one width or two; layers that no group changes are left out.

    Args:
        networks: The network's copies.
        run: Calls a module on the examples.
    """
    known = _groups_by_width(networks.spec)
    found: dict[str, tuple[Width, ...]] = {}
    for layer, groups in _groups_by_layer(networks, run).items():
        own = [width for width in known if layer_of(width[0]) == layer]
        found[layer] = _covering(groups, known, own)
        say_what_is_left_out(layer, groups, found[layer], known)
    return found


def say_what_is_left_out(
    layer: str, groups: Groups, widths: tuple[Width, ...], known: Mapping[Width, Groups]
) -> None:
    """Warn of groups that change a layer's shapes, and not its two widths."""
    covered = frozenset[str]().union(*(known[width] for width in widths))
    if groups <= covered:
        return
    left = listed_names(sorted(groups - covered))
    shown = " and ".join(f"dimension {dim} of {path!r}" for path, dim in widths)
    warn_user(
        f"A layer of a latency table has two widths, and the shapes in {layer!r} depend on more: "
        f"its time is measured over {shown}, and units of {left} leave it "
        "as it is. Predictions for that layer are too high without these units; leave those "
        "groups out, or split the layer into layers of two widths."
    )


def _groups_by_layer(networks: Networks, run: Callable[[nn.Module], Any]) -> dict[str, Groups]:
    """For each layer the groups that change a shape in it."""
    base = networks.uniform(_BASE)
    shapes = _shapes_at(networks, base, run)
    changing: dict[str, set[str]] = {}
    for name, units in networks.uniform(0.0).items():
        if units == base[name]:
            continue
        changed = _shapes_at(networks, base | {name: units}, run)
        for layer in shapes.keys() | changed.keys():
            if shapes.get(layer) != changed.get(layer):
                changing.setdefault(layer, set()).add(name)
    return {layer: frozenset(groups) for layer, groups in changing.items()}


def _shapes_at(
    networks: Networks, units: Mapping[str, int], run: Callable[[nn.Module], Any]
) -> dict[str, list[torch.Size]]:
    module = networks.module(units)
    return layer_shapes(module, lambda: run(module))


def _groups_by_width(spec: GateSpec) -> dict[Width, Groups]:
    """For each dimension of a parameter the groups that remove slices along it."""
    found: dict[Width, set[str]] = {}
    for p in spec.parameters:
        for binding in p.bindings:
            dim: int | None = getattr(binding.rule, "dim", None)
            if dim is not None:
                found.setdefault((p.path, dim % len(p.shape)), set()).add(binding.gate)
    return {width: frozenset(groups) for width, groups in found.items()}


def _covering(
    groups: Groups, known: Mapping[Width, Groups], own: Sequence[Width]
) -> tuple[Width, ...]:
    """One width or two that depend on these groups together, with the layer's own if they can.

    Where no two do, those that depend on the most of them.
    """
    inside = [width for width in known if known[width] <= groups]
    inside.sort(key=lambda width: width not in own)
    candidates = {known[width]: width for width in reversed(inside)}
    widths = list(candidates.values())
    choices = [(width,) for width in widths] + list(combinations(widths, 2))

    def worth(choice: tuple[Width, ...]) -> tuple[int, int, int]:
        covered = frozenset[str]().union(*(known[width] for width in choice))
        return len(covered), len(set(choice) & set(own)), -len(choice)

    return max(choices, key=worth)
