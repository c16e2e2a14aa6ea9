"""Modules with groups of units, and gates on these, for tests of removal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import l0func as l0
from l0func.internal import tree


def drawn(spec: l0.GateSpec, density: float, seed: int = 0) -> dict[str, Tensor]:
    """Gates of which a share is open, each to a degree of its own; at least one of each vector."""
    gates = {}
    for gate in spec.gates:
        u, v = l0.random.uniform(
            l0.random.fold_in(l0.random.key(seed), gate.stream), (2, *gate.shape)
        )
        gates[gate.name] = torch.where((u < density) | (u == u.min()), 4 * v - 0.5, -20.0).to(
            gate.dtype
        )
    return gates


def problem(case: Any, dtype: torch.dtype) -> tuple[Any, ...] | None:
    module = case.build().eval()
    try:
        groups = l0.unit_groups(module, case.batch())
    except ValueError:
        return None
    fn, params, buffers = l0.make_functional(module)
    parts = (params, buffers, case.batch())
    params, buffers, inputs = (
        tree.map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, p) for p in parts
    )
    return fn, params, buffers, l0.gate_spec(params, groups=groups, buffers=buffers), inputs
