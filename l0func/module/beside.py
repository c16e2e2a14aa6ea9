"""An ``L0Module``'s gates as its costs take them beside parameters that processes share out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l0func.gates.checks import Gates
from l0func.internal.sharding import is_dtensor
from l0func.internal.torch_version import distributed_tensor
from l0func.internal.untyped import loose
from l0func.spec.plan import GateSpec


def gates_beside(params: Mapping[str, Tensor], gates: Gates, spec: GateSpec) -> Gates:
    """The gates with the layouts that costs ask for: whole in every process of a mesh.

    Plain gates, which every process holds alike, need no message. Gates that FSDP has sharded are
    gathered, unless each is held beside the entries that it multiplies. Both ways are
    differentiable.

    Args:
        params: The parameters; some may be DTensors.
        gates: The gates.
        spec: The gate spec.
    """
    if not any(map(is_dtensor, params.values())):
        return gates
    found = dict(gates)
    for name, mesh in _meshes(params, spec).items():
        if not _lies_beside(name, gates[name], params, spec):
            found[name] = _on_mesh(gates[name], mesh)
    return found


def _meshes(params: Mapping[str, Tensor], spec: GateSpec) -> dict[str, Any]:
    """For each gate vector the mesh of its parameters; without any, that of the others."""
    meshes: dict[str, Any] = {}
    for p in spec.gated():
        if is_dtensor(params[p.path]):
            for binding in p.bindings:
                meshes.setdefault(binding.gate, loose(params[p.path]).device_mesh)
    every = [loose(t).device_mesh for t in params.values() if is_dtensor(t)]
    return {gate.name: meshes.get(gate.name, every[0]) for gate in spec.gates}


def _lies_beside(name: str, gate: Tensor, params: Mapping[str, Tensor], spec: GateSpec) -> bool:
    """Whether gates are laid out as the entries of the single parameter that they are on."""
    own = [p for p in spec.gated() if any(binding.gate == name for binding in p.bindings)]
    if not is_dtensor(gate) or len(own) != 1 or len(own[0].bindings) != 1:
        return False
    param = params[own[0].path]
    if not is_dtensor(param) or gate.shape != param.shape:
        return False
    mine, theirs = loose(gate), loose(param)
    return mine.device_mesh == theirs.device_mesh and mine.placements == theirs.placements


def _on_mesh(gate: Tensor, mesh: Any) -> Tensor:
    home = distributed_tensor()
    whole = loose(gate).full_tensor() if is_dtensor(gate) else gate
    return home.DTensor.from_local(whole, mesh, [home.Replicate()] * mesh.ndim, run_check=False)
