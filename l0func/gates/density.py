"""Test-time gates for an exact density: the likeliest gates stay open, as many as it allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from l0func.gates.checks import Gates, MaskEstimator
from l0func.gates.closed import Decision
from l0func.gates.masks import check_order, deterministic_gates
from l0func.internal import names
from l0func.internal.stacked import check_not_mapped
from l0func.spec.plan import GateSpec, ParameterPlan

Density: TypeAlias = float | Mapping[str, float]
"""The share of entries of gated parameters that stays, in [0, 1]; or one for each pattern."""


def fixed_gates(
    gates: Gates, spec: GateSpec, estimator: MaskEstimator, density: Density | None
) -> Gates:
    """Test-time gates by an estimator, or by a density if one is given.

    Raises:
        ValueError: The density is none or cannot be reached; or both are given.
    """
    if density is None:
        return deterministic_gates(gates, spec, estimator)
    if estimator != "louizos":
        raise ValueError(
            f"A density decides by itself which gates stay open; got estimator={estimator!r} "
            "beside it. Give one of the two."
        )
    return gates_at(gates, spec, density)


def decision(spec: GateSpec, estimator: MaskEstimator, density: Density | None) -> Decision:
    """The name of an estimator or of a density, and the parameters that it is to close."""
    if density is None:
        return Decision(estimator, ())
    paths = [p.path for p in spec.gated()]
    given = names.per_path(density, paths, "a density", "gated parameter")
    closes = [path for path in paths if given[path] == 0.0]
    return Decision(f"density {density}", closes, all(given[path] == 1.0 for path in paths))


def gates_at(gates: Gates, spec: GateSpec, density: Density) -> Gates:
    r"""Gate values at a density, ``{gate name: z}``.

    Gates stay open in the order of :math:`P(z \ne 0)`, ties by name and then by index, as long as
    the share of open entries is not above the density. An open gate has its mean, as under
    ``"count"``; a closed one is 0.

    A pattern orders the gates on the parameters that match it. A gate on parameters of several
    patterns stays open if all of these keep it.

    Args:
        gates: ``{gate name: log_alpha}``.
        spec: The gate spec.
        density: The share of entries of gated parameters that stays, in [0, 1]; or ``{pattern:
            share}`` over parameter paths, the first match of each.

    Raises:
        TypeError: A share is no number.
        ValueError: A share is outside [0, 1], or below the share that no gate can close; there
            are no gates; a pattern matches no gated parameter, or a gated parameter no pattern.
    """
    check_not_mapped("A density orders the gates of one network", gates=gates)
    pools = _pools(spec, density)
    check_order(gates, "A density orders all gates, and")
    places = _places_in_order(gates, spec)
    opens = {name: torch.ones(place.shape, device=place.device) for name, place in places.items()}
    for pattern, (parameters, share) in pools.items():
        opens = _closed_to(share, pattern, parameters, places, opens)
    values: Gates = {}
    for gate in spec.gates:
        log_alpha = gates[gate.name]
        # A mean that underflows would close a gate that stays.
        soft = gate.distribution.mean(log_alpha).clamp(min=torch.finfo(log_alpha.dtype).tiny)
        is_open = opens[gate.name].to(log_alpha.device) > 0
        values[gate.name] = torch.where(is_open, soft, 0.0)
    return values


def _pools(spec: GateSpec, density: Density) -> dict[str, tuple[Sequence[ParameterPlan], float]]:
    """For every pattern the gated parameters that it decides, and their density."""
    gated = list(spec.gated())
    if not gated:
        raise ValueError("A density needs gates to close; this spec has none.")
    by_pattern = density if isinstance(density, Mapping) else {"*": density}
    if not by_pattern:
        raise ValueError("A density has at least one pattern; got an empty mapping.")
    for pattern, share in by_pattern.items():
        _check_share(pattern, share)
    paths = [p.path for p in gated]
    names.per_path(cast("Mapping[str, float]", by_pattern), paths, "a density", "gated parameter")
    pattern_of = names.first_matches(paths, {pattern: pattern for pattern in by_pattern})
    pools: dict[str, tuple[Sequence[ParameterPlan], float]] = {}
    for pattern, share in by_pattern.items():
        own = [p for p in gated if pattern_of[p.path] == pattern]
        if not own:
            matched = list(names.matching(pattern, paths))
            raise ValueError(
                f"Pattern {pattern!r} decides nothing: an earlier pattern matches {matched[0]!r} "
                "already. Put the narrower pattern first."
            )
        pools[pattern] = (own, float(share))
    return pools


def _check_share(pattern: str, share: Any) -> None:
    is_one = isinstance(share, Tensor) and share.dim() == 0
    if not is_one and (isinstance(share, bool) or not isinstance(share, Real)):
        raise TypeError(f"A density is a number in [0, 1]; {pattern!r} has {share!r}.")
    if not 0.0 <= float(share) <= 1.0:
        raise ValueError(
            f"A density is the share of entries that stay, in [0, 1], such as 0.1 for 10 %; "
            f"{pattern!r} has {share}."
        )


def _places_in_order(gates: Gates, spec: GateSpec) -> dict[str, Tensor]:
    """For each gate its place in the order of P(z ≠ 0), 0 for the likeliest."""
    ordered = sorted(spec.gates, key=lambda gate: gate.name)
    chances: list[Tensor] = []
    for gate in ordered:
        # In float64, since half precision and float32 round many likely gates to 1.
        log_alpha = gates[gate.name].detach().cpu().double()
        chances.append(gate.distribution.prob_nonzero(log_alpha).reshape(-1))
    order = torch.cat(chances).sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    places: dict[str, Tensor] = {}
    start = 0
    for gate in ordered:
        places[gate.name] = place[start : start + gate.size].reshape(gate.shape)
        start += gate.size
    return places


def _closed_to(
    share: float,
    pattern: str,
    parameters: Sequence[ParameterPlan],
    places: Mapping[str, Tensor],
    opens: Gates,
) -> Gates:
    """The open gates, without those that some parameters cannot have at this density."""
    own = {binding.gate for p in parameters for binding in p.bindings}
    total = sum(p.size for p in parameters)
    # 0.29 * 100 is a little below 29.
    limit = math.floor(share * total + 1e-6)
    count = sum(places[name].numel() for name in places)

    def kept(first: int) -> Gates:
        chosen = {name: opens[name] * (places[name] < first) for name in own}
        return opens | chosen

    if _entries(parameters, kept(0)) > limit:
        raise _unreachable(share, pattern, parameters, kept(0))
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if _entries(parameters, kept(middle)) <= limit:
            low = middle
        else:
            high = middle - 1
    return kept(low)


def _entries(parameters: Sequence[ParameterPlan], opens: Gates) -> int:
    """The number of entries behind open gates only."""
    total = 0
    for p in parameters:
        entries = p.spread(opens, owned=True)
        total += int(entries.count_nonzero()) * (p.size // max(entries.numel(), 1))
    return total


def _unreachable(
    share: float, pattern: str, parameters: Sequence[ParameterPlan], closed: Gates
) -> ValueError:
    free = [p.path for p in parameters if _entries([p], closed)]
    least = _entries(parameters, closed) / sum(p.size for p in parameters)
    return ValueError(
        f"A density of {share} for {pattern!r} cannot be reached: with every gate closed "
        f"{least:.4g} is still there, because {', '.join(map(repr, free[:4]))} have entries "
        "without gates. Gate them, or ask for more."
    )
