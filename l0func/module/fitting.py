"""Gates that fit a wrapped module: on its device, and for the parameters that it still has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l0func.spec.plan import GateSpec


def beside_parameters(
    gates: Mapping[str, Tensor], params: Mapping[str, Tensor], spec: GateSpec
) -> dict[str, Tensor]:
    """The gates, each on the device of a parameter that it gates."""
    placed = dict(gates)
    for plan in spec.gated():
        device = params[plan.path].device
        for binding in plan.bindings:
            # A parameter on the meta device has no values yet, and its gates have.
            if device.type != "meta":
                placed[binding.gate] = placed[binding.gate].to(device)
    return placed


def check_fits_spec(params: Mapping[str, Tensor], spec: GateSpec) -> None:
    """Refuse a wrapped module that lost a gated parameter, or has one of another shape.

    Args:
        params: The module's parameters now, by path.
        spec: The gates for the parameters that it had when it was wrapped.

    Raises:
        ValueError: It does not fit.
    """
    for plan in spec.parameters:
        found = params.get(plan.path)
        if found is not None and tuple(found.shape) == tuple(plan.shape):
            continue
        now = "it has none" if found is None else f"it has {tuple(found.shape)}"
        raise ValueError(
            f"L0Module wrapped a module with a parameter {plan.path!r} of shape "
            f"{tuple(plan.shape)}, and now {now}. Gates are for the parameters that a module has "
            "when it is wrapped: replace, tie, prune or parametrize its layers first, and then "
            "wrap it in a new L0Module."
        )
