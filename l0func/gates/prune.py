"""``prune``: parameters with exact zeros behind closed gates."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from l0func.gates.checks import (
    Gates,
    MaskEstimator,
    check_devices,
    check_finite,
    check_gates,
    check_params,
    check_values,
)
from l0func.gates.closed import warn_if_closed
from l0func.gates.density import Density, decision, fixed_gates
from l0func.gates.twice import warn_if_pruned
from l0func.internal import tree
from l0func.internal.kinds import real_dtype
from l0func.internal.sharding import is_dtensor, layout_of
from l0func.internal.shards import factor_beside, part, wrapped
from l0func.internal.tree import Tree, TreeT
from l0func.spec.parts import ParameterPlan
from l0func.spec.plan import GateSpec


def prune(
    params: TreeT,
    gates: Tree,
    spec: GateSpec,
    estimator: MaskEstimator = "louizos",
    *,
    density: Density | None = None,
) -> TreeT:
    """Parameters under test-time gates, with exact zeros behind the closed ones.

    Args:
        params: Parameters, flat or nested, before any prune: gates multiply them once.
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        estimator: The test-time gates: ``"louizos"``, ``"median"``, ``"mean"`` or ``"count"``.
        density: In place of an estimator: the share of entries of gated parameters that stays, in
            [0, 1], or ``{pattern: share}`` over parameter paths. The gates with the largest P(z ≠
            0) stay, and have their means. The share is exact with a gate for each entry, else the
            nearest that is not above. Gates on parameters of several patterns stay if all of these
            keep them.

    Returns:
        A new pytree with the structure of ``params``. Entries behind a closed gate, multiplied or
        owned, are 0; the others are multiplied by their gates.

    Raises:
        ValueError: Params or gates do not fit the spec, a gate location is NaN, or a parameter
            is NaN, infinite or on another device than its gates; a density is
            outside [0, 1], cannot be reached, or comes with an estimator.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(4)}
        >>> gates = {"w": torch.tensor([0.0, 9.0, 1.0, 9.0])}
        >>> l0.prune(params, gates, l0.gate_spec(params), density=0.5)["w"] != 0
        tensor([False,  True, False,  True])
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    check_values(named)
    check_devices(tensors, named, spec)
    check_finite(tensors)
    z = fixed_gates(named, spec, estimator, density)
    warn_if_pruned("prune", tensors, z, spec)
    warn_if_closed(z, spec, decision(spec, estimator, density))
    return tree.rebuild(params, pruned_by(tensors, z, spec))


def pruned_by(params: Mapping[str, Tensor], z: Gates, spec: GateSpec) -> dict[str, Tensor]:
    """Flat parameters under these gate values, with exact zeros behind the closed gates."""
    bindings = chain.from_iterable(p.bindings for p in spec.gated())
    owning = {binding.gate for binding in bindings if not binding.multiplies}
    opens = {name: (z[name] != 0).to(z[name].dtype) for name in owning}
    pruned = dict(params)
    for p in spec.gated():
        # One product for both: a gate's value where it multiplies, and 1 or 0 where it owns.
        mask = p.spread(z, owned=True, owners=opens)
        pruned[p.path] = _masked_shard(p, params[p.path], mask)
    return pruned


def _masked_shard(p: ParameterPlan, weight: Tensor, mask: Tensor) -> Tensor:
    """:func:`_masked`, each process on its own part of a DTensor."""
    if not (is_dtensor(weight) or is_dtensor(mask)):
        return _masked(weight, mask, p.multiplied)
    # Gates that only own entries lie as the parameters that they multiply.
    own_mask = factor_beside(weight, mask, p.path, gathers=p.has_owners)
    if not is_dtensor(weight):
        return _masked(weight, own_mask, p.multiplied)
    own = _masked(part(weight), own_mask, p.multiplied)
    return wrapped(own, layout_of(weight, p.path), weight.shape)


def _masked(weight: Tensor, mask: Tensor, multiplied: bool) -> Tensor:
    # A zero of the tensor's own type: beside a Python 0, bool becomes int64.
    zero = torch.zeros((), dtype=weight.dtype, device=weight.device)
    if not multiplied:
        return torch.where(mask != 0, weight, zero)
    # The sum with 0 turns -0.0, which a negative weight leaves behind a closed gate, into 0.0.
    return torch.addcmul(zero, weight, mask.to(real_dtype(weight.dtype)))


def open_entries(z: Gates, spec: GateSpec) -> dict[str, Tensor]:
    """For every gated parameter, whether each entry is behind open gates only.

    Args:
        z: ``{gate name: value of each gate}``.
        spec: The gate spec.

    Returns:
        ``{parameter path: bool of the parameter's shape}``.
    """
    opens = {name: (value != 0).to(value.dtype) for name, value in z.items()}
    kept: dict[str, Tensor] = {}
    for p in spec.gated():
        entries = p.spread(opens, owned=True) != 0
        kept[p.path] = entries.expand(p.shape)
    return kept
