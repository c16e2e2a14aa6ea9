"""Modules with groups of units, and random gates for them, for tests of removal."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import l0func as l0
from l0func.internal import tree


def random_gates(spec: l0.GateSpec, density: float, seed: int = 0) -> dict[str, Tensor]:
    """Gates with a share open, to random degrees; in each vector at least one."""
    gates = {}
    for gate in spec.gates:
        key = l0.random.fold_in(l0.random.key(seed), gate.stream)
        u, v = l0.random.uniform(key, (2, *gate.shape))
        is_open = (u < density) | (u == u.min())
        gates[gate.name] = torch.where(is_open, 4 * v - 0.5, -20.0).to(gate.dtype)
    return gates


@functools.cache
def problem(case: Any, dtype: torch.dtype) -> tuple[Any, ...] | None:
    """``fn, params, buffers, spec, inputs`` with a case's unit groups; None if it has none.

    Pure functions change none of these, so one answer serves every test of a process.
    """
    module = case.build().eval()
    try:
        groups = l0.unit_groups(module, case.batch())
    except ValueError:
        return None

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    fn, params, buffers = l0.make_functional(module)
    trees = (params, buffers, case.batch())
    params, buffers, inputs = tree.map_tensors(cast, trees)
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    return fn, params, buffers, spec, inputs
