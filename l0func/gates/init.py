"""Gates to start training from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from l0func import random
from l0func.gates.checks import Gates, MaskEstimator, check_estimator, check_single_key
from l0func.gates.masks import apply_masks, mean_masks
from l0func.internal import names
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, GateVector

Sampler = Callable[[Tensor, tuple[int, ...]], Tensor]


def init_gates(
    key: Tensor,
    spec: GateSpec,
    droprate: float | Sampler | Mapping[str, float | Sampler] = 0.2,
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
        spec: The plan.
        droprate: The probability that a gate starts closed, in (0, 1); or a callable of ``(key,
            shape)`` that gives locations; or either of these for each pattern over gate names.
        noise: Standard deviation of normal noise on the locations, which breaks ties.
        meaning: ``"closed"``: droprate is P(z = 0). ``"below_half"``: it is P(z < 1/2), the usual
            recipe ``logit(1 - droprate)`` of hard concrete gates, whose P(z = 0) is .048 for .2
            and .168 for .5.
        estimator: The test-time gates that you will use: a droprate at which they all start closed
            is warned of.

    Returns:
        ``{gate name: log_alpha}``.

    Raises:
        TypeError: ``key`` is not a key.
        ValueError: A droprate is outside (0, 1); a pattern matches no gate, or a gate no pattern;
            a callable gives another shape; the noise is negative.
    """
    check_single_key(key)
    check_estimator(estimator)
    if noise < 0:
        raise ValueError(
            f"The noise on gate locations is a standard deviation, at least 0; got {noise}."
        )
    if meaning not in ("closed", "below_half"):
        raise ValueError(
            f"A droprate means 'closed', P(z = 0), or 'below_half', P(z < 1/2); got {meaning!r}."
        )
    starts = names.per_path(droprate, [gate.name for gate in spec.gates], "a droprate", "gate")
    at = 0.0 if meaning == "closed" else 0.5
    gates: Gates = {}
    for gate in spec.gates:
        start, own = starts[gate.name], random.fold_in(key, gate.stream)
        if callable(start):
            gates[gate.name] = _from_sampler(start, own, gate)
            continue
        location = gate.distribution.init(start, at=at)
        _warn_if_closed(gate, location, start, estimator)
        gates[gate.name] = (location + noise * random.normal(own, gate.shape)).to(gate.dtype)
    return gates


def _from_sampler(start: Sampler, key: Tensor, gate: GateVector) -> Tensor:
    log_alpha = torch.as_tensor(start(key, gate.shape))
    if tuple(log_alpha.shape) != gate.shape:
        raise ValueError(
            f"The gates {gate.name!r} have shape {gate.shape}; their initialiser gave "
            f"{tuple(log_alpha.shape)}."
        )
    return log_alpha.to(gate.dtype)


def _warn_if_closed(
    gate: GateVector, location: float, droprate: float, estimator: MaskEstimator
) -> None:
    if estimator == "count":
        return
    if (
        gate.distribution.deterministic(
            torch.tensor(location, dtype=torch.float64), estimator
        ).item()
        == 0.0
    ):
        warnings.warn(
            f"With droprate {droprate} the test-time gates of {gate.name!r} all start closed "
            f"under the {estimator!r} "
            "estimator: the network outputs what it would without them. Choose a smaller droprate "
            "or another estimator.",
            stacklevel=3,
        )


def compensate(params: Tree, gates: Tree, spec: GateSpec) -> Tree:
    """Parameters divided by their expected masks, so that the gated network starts, on average,
    where it was.

    Args:
        params: Pretrained parameters, flat or nested.
        gates: ``{gate name: log_alpha}``, as they start.
        spec: The plan.

    Returns:
        A new pytree of the structure of ``params``.

    Raises:
        ValueError: Gates do not fit the spec.
    """
    return apply_masks(params, {path: 1 / mask for path, mask in mean_masks(gates, spec).items()})
