"""Gate locations at the start of training, and parameters divided by their expected masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from l0func import random
from l0func.gates.checks import (
    Gates,
    MaskEstimator,
    check_estimator,
    check_gates,
    check_params,
    check_single_key,
)
from l0func.gates.masks import apply_masks, mean_masks
from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.sharding import is_dtensor
from l0func.internal.tree import Tree, TreeT
from l0func.spec.plan import GateSpec, GateVector, ParameterPlan, check_spec

Sampler = Callable[[Tensor, tuple[int, ...]], Tensor]
Droprate = float | Sampler
"""The probability that a gate starts closed, or a sampler of locations."""

_LEAST_DRAW = 2**-24
"""The least uniform that :func:`l0func.random.uniform` draws."""


def init_gates(
    key: Tensor,
    spec: GateSpec,
    droprate: Droprate | Mapping[str, Droprate] = 0.2,
    *,
    noise: float = 0.01,
    meaning: Literal["closed", "below_half"] = "closed",
    estimator: MaskEstimator = "louizos",
) -> Gates:
    """Gate locations to start from.

    A gate that starts at E[z] < 1 shrinks the weights behind it: with ``droprate`` .2, .3 and .5
    hard concrete gates have E[z] = .454, .341 and .194. For pretrained weights use a small
    droprate, or :func:`compensate`.

    Args:
        key: A key, shape ``(2,)``.
        spec: The gate spec.
        droprate: The probability that a gate starts closed, in (0, 1); or a sampler of locations,
            a callable of ``(key, shape)``; or either of these for each pattern over gate names.
        noise: Standard deviation of normal noise on the locations, to break ties.
        meaning: ``"closed"``: droprate is P(z = 0). ``"below_half"``: it is P(z < 1/2), the usual
            recipe ``logit(1 - droprate)`` for hard concrete gates; their P(z = 0) is then .048
            for .2 and .168 for .5.
        estimator: The test-time gates that you will use. A warning follows if all of them start
            closed.

    Returns:
        ``{gate name: log_alpha}``.

    Raises:
        TypeError: ``key`` is not a key, ``spec`` is not a spec, or a droprate is not a number.
        ValueError: A droprate is outside (0, 1); a pattern matches no gate, or a gate no pattern;
            a sampler gives another shape; the noise is negative.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = l0.init_gates(l0.random.key(0), spec, droprate=0.2)
        >>> 1 - l0.HardConcrete().prob_nonzero(gates["w"])  # P(closed), with a little noise
        tensor([0.1998, 0.2011])
    """
    check_single_key(key)
    check_spec(spec)
    check_estimator(estimator)
    _check_noise(noise)
    at = _threshold(meaning)
    gate_names = [gate.name for gate in spec.gates]
    starts = names.per_path(droprate, gate_names, "a droprate", "gate")
    gates: Gates = {}
    for gate in spec.gates:
        start = starts[gate.name]
        own_key = random.fold_in(key, gate.stream)
        if callable(start):
            gates[gate.name] = _from_sampler(start, own_key, gate)
        else:
            _check_droprate(start, gate.name)
            location = gate.distribution.init(float(start), at=at)
            _warn_if_closed(gate, location, start, estimator)
            gates[gate.name] = _around(location, noise, own_key, gate)
    return gates


def _check_droprate(droprate: Any, name: str) -> None:
    is_scalar = isinstance(droprate, Tensor) and droprate.dim() == 0
    if not is_scalar and (isinstance(droprate, bool) or not isinstance(droprate, Real)):
        raise TypeError(
            f"The droprate of {name!r} is a number in (0, 1), or a sampler, a callable of (key, "
            f"shape); got {droprate!r}. For several droprates pass {{pattern: droprate}}."
        )


def _check_noise(noise: float) -> None:
    if noise < 0:
        raise ValueError(
            f"The noise on gate locations is a standard deviation, at least 0; got {noise}."
        )


def _threshold(meaning: str) -> float:
    """The threshold t for which the droprate is P(z <= t)."""
    if meaning not in ("closed", "below_half"):
        raise ValueError(
            f"A droprate means 'closed', P(z = 0), or 'below_half', P(z < 1/2); got {meaning!r}."
        )
    return 0.0 if meaning == "closed" else 0.5


def _around(location: float, noise: float, key: Tensor, gate: GateVector) -> Tensor:
    """Locations with normal noise around the given one."""
    deviations = noise * random.normal(key, gate.shape)
    return (location + deviations).to(gate.dtype)


def _from_sampler(start: Sampler, key: Tensor, gate: GateVector) -> Tensor:
    log_alpha = torch.as_tensor(start(key, gate.shape))
    shape = tuple(log_alpha.shape)
    if shape != gate.shape:
        raise ValueError(
            f"The gates {gate.name!r} have shape {gate.shape}; their sampler gave {shape}."
        )
    return log_alpha.to(gate.dtype)


def _warn_if_closed(
    gate: GateVector, location: float, droprate: float, estimator: MaskEstimator
) -> None:
    if estimator == "count":
        return
    log_alpha = torch.tensor(location, dtype=torch.float64)
    if gate.distribution.deterministic(log_alpha, estimator).item() == 0.0:
        warnings.warn(
            f"With droprate {droprate} the test-time gates of {gate.name!r} all start closed "
            f"under the {estimator!r} estimator, and close everything behind them. Choose a "
            "smaller droprate or another estimator.",
            stacklevel=3,
        )


def compensate(params: TreeT, gates: Tree, spec: GateSpec) -> TreeT:
    """Parameters divided by their expected masks.

    Multiplied by masks, they equal the given ones on average, so that the gated network starts
    about where it was. Entries of value 0 stay 0.

    Args:
        params: Pretrained parameters, flat or nested.
        gates: ``{gate name: log_alpha}``, as they start.
        spec: The gate spec.

    Returns:
        A new pytree with the structure of ``params``.

    Raises:
        ValueError: Gates do not fit the spec; or a mask on an entry other than 0 is on average
            below 2⁻²⁴, the least draw, or so small that the divided entry is infinite.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.zeros(2)}  # E[z] = 0.5
        >>> l0.compensate(params, gates, spec)["w"]
        tensor([[2., 2., 2.],
                [2., 2., 2.]])
    """
    tensors, named = check_params(params, spec), check_gates(gates, spec)
    means = mean_masks(gates, spec)
    # The limit bounds the factors also where a transform or a DTensor hides the values.
    inverse = {path: 1 / mask.clamp(min=_least_mask(mask.dtype)) for path, mask in means.items()}
    compensated = apply_masks(tensors, inverse)
    for plan in spec.parameters:
        if plan.multiplied:
            path = plan.path
            lowest = _lowest_lost(tensors[path], means[path], compensated[path])
            if lowest is not None:
                raise _all_but_closed(plan, lowest, named, spec)
    return tree.rebuild(params, compensated)


def _least_mask(dtype: torch.dtype) -> float:
    """The least mask to divide by: the least draw, or the inverse of the dtype's largest number.

    A gate that is open with a lower probability is closed in every draw, and what it multiplies
    has no average to keep.
    """
    return max(_LEAST_DRAW, 1 / torch.finfo(dtype).max)


def _lowest_lost(param: Tensor, mask: Tensor, compensated: Tensor) -> float | None:
    """The lowest mask on an entry that masks do not give back on average; None without one.

    Values that a transform, a compiler or a DTensor hides are not looked at.
    """
    if any(map(is_dtensor, (param, mask))):
        return None
    held = (param != 0) & param.isfinite()
    lost = held & ~((mask >= _least_mask(mask.dtype)) & compensated.isfinite())
    return known_values(torch.where(lost, mask, 1.0).min()) if known_values(lost.any()) else None


def _all_but_closed(plan: ParameterPlan, mask: float, gates: Gates, spec: GateSpec) -> ValueError:
    return ValueError(
        f"The gates {_lowest_gates(plan, gates, spec)!r} are all but closed: their mask on "
        f"{plan.path!r} is {mask:.3g} on average, and a weight divided by that is no weight to "
        "train. Raise these gates, or first set the weights behind them to 0, as in "
        "l0func.prune(params, gates, spec)."
    )


def _lowest_gates(plan: ParameterPlan, gates: Gates, spec: GateSpec) -> str:
    """The name of the gates on a parameter with the lowest expectation."""
    means: dict[str, float] = {}
    on_path = {binding.gate for binding in plan.bindings if binding.multiplies}
    for gate in spec.gates:
        if gate.name in on_path:
            mean = gate.distribution.mean(gates[gate.name])
            means[gate.name] = float(mean.detach().min())
    return min(means, key=means.__getitem__)
