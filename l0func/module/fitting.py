"""The check that a wrapped module still has the parameters that its gates are for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l0func.spec.plan import GateSpec


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
