"""Gates laid out over processes as the slices of the parameters that they multiply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l0func.gates.checks import Gates, check_device, check_gates, check_params
from l0func.internal.sharding import is_dtensor
from l0func.internal.torch_version import distributed_tensor
from l0func.internal.tree import Tree
from l0func.internal.untyped import loose
from l0func.internal.whole import shown_layout
from l0func.sharding.layouts import common_layout, layout_of_gates
from l0func.spec.plan import GateSpec, GateVector


def place_gates(spec: GateSpec, params: Tree, gates: Tree, /) -> Gates:
    """Gates as DTensors, laid out as the slices of the DTensors that they multiply.

    Gates on all entries get the parameter's layout. Gates along one dimension are sharded where
    the parameter is sharded along it, and replicated elsewhere. So are gates on runs along a
    dimension, if every process holds whole runs of the same number; on other slices gates are
    replicated. A gate vector that multiplies several parameters is sharded where all of them ask
    for the same shards, and replicated elsewhere: that serves every layout.

    Nothing is sent: every process passes the same whole gates, and keeps its own part. Gates that
    multiply no DTensor stay as they are.

    Args:
        spec: The gate spec.
        params: Parameters; those that :func:`torch.distributed.tensor.distribute_tensor`,
            ``fully_shard`` or ``parallelize_module`` laid out are DTensors.
        gates: ``{gate name: log_alpha}``, whole.

    Returns:
        ``{gate name: log_alpha}``, with the values of ``gates``.

    Raises:
        ValueError: Gates or params do not fit the spec; a gate multiplies parameters on two
            meshes, or a DTensor and a plain tensor; a parameter is a partial sum; gates are
            DTensors in another layout, or on another device.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> l0.place_gates(spec, params, gates)  # no parameter is a DTensor here
        {'w': tensor([-3.,  3.])}
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    return {gate.name: _placed(gate, spec, tensors, named[gate.name]) for gate in spec.gates}


def _placed(
    gate: GateVector, spec: GateSpec, tensors: Mapping[str, Tensor], log_alpha: Tensor
) -> Tensor:
    multiplied = multiplied_by(gate, spec, tensors)
    sharded = {path: t for path, t in multiplied.items() if is_dtensor(t)}
    if not sharded:
        _check_plain(gate, log_alpha)
        return log_alpha
    mesh = _common_mesh(gate, multiplied)
    for path, param in sharded.items():
        check_device(path, param, log_alpha)
    placements = common_layout([layout_of_gates(gate, spec, p, t) for p, t in sharded.items()])
    if is_dtensor(log_alpha):
        _check_layout(gate, log_alpha, mesh, placements)
        return log_alpha
    return _own_part(log_alpha, mesh, placements)


def multiplied_by(
    gate: GateVector, spec: GateSpec, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The parameters that a gate vector multiplies, by path."""
    found: dict[str, Tensor] = {}
    for p in spec.parameters:
        for binding in p.bindings:
            if binding.multiplies and binding.gate == gate.name:
                found[p.path] = tensors[p.path]
    return found


def _check_plain(gate: GateVector, log_alpha: Tensor) -> None:
    if is_dtensor(log_alpha):
        raise ValueError(
            f"The gates {gate.name!r} are a DTensor, {shown_layout(log_alpha)}, and multiply no "
            "DTensor. Lay the parameters out first, or gather the gates: l0func.gather(gates)."
        )


def _common_mesh(gate: GateVector, multiplied: Mapping[str, Tensor]) -> Any:
    """The mesh of all parameters that a gate vector multiplies."""
    first, mesh = "", None
    for path, t in multiplied.items():
        if not is_dtensor(t):
            others = sorted(other for other in multiplied if is_dtensor(multiplied[other]))
            raise ValueError(
                f"The gates {gate.name!r} multiply {path!r}, a plain tensor, and the DTensor "
                f"{others[0]!r}. Lay both out on one mesh: torch.distributed.tensor."
                f"distribute_tensor(params[{path!r}], mesh, [Replicate()] * mesh.ndim)."
            )
        own = loose(t).device_mesh
        if mesh is not None and own != mesh:
            raise ValueError(
                f"The gates {gate.name!r} multiply parameters on two meshes: {first!r} on {mesh} "
                f"and {path!r} on {own}. Lay both out on one mesh, or give each gates of its own."
            )
        first, mesh = path, own
    return mesh


def _check_layout(gate: GateVector, log_alpha: Tensor, mesh: Any, wanted: tuple[Any, ...]) -> None:
    own = loose(log_alpha)
    if own.device_mesh != mesh or tuple(own.placements) != wanted:
        raise ValueError(
            f"The gates {gate.name!r} are laid out already, {shown_layout(own)}, and their "
            f"parameters ask for {list(wanted)} over {mesh}. Pass whole gates: "
            "place_gates(spec, params, l0func.gather(gates))."
        )


def _own_part(log_alpha: Tensor, mesh: Any, placements: tuple[Any, ...]) -> Tensor:
    """This process's part of whole gates, in memory of its own."""
    home = distributed_tensor()
    whole = log_alpha.detach()
    # src_data_rank: by default rank 0 would send its own values to the others.
    part = home.distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local().clone()
    kept = {"run_check": False, "shape": whole.shape, "stride": whole.stride()}
    placed = home.DTensor.from_local(part, mesh, placements, **kept)
    return placed.requires_grad_(log_alpha.requires_grad)
