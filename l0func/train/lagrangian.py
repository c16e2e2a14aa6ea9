"""The controller that reaches a target: one multiplier for each constraint replaces a fixed λ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.costs.macs import MacCounts, check_counts
from l0func.gates.checks import ESTIMATORS, Gates, MaskEstimator, check_gates
from l0func.gates.masks import deterministic_gates
from l0func.internal import names
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, check_spec
from l0func.train.constraints import MEASURES, Constraint, Measure, Target, constraints_of
from l0func.train.numbers import check_number


class LagrangianState(NamedTuple):
    """The state that a controller carries from step to step.

    All fields are tensors, so the state is mapped, saved and resumed like parameters.
    """

    step: Tensor
    """Number of updates so far, an int64 scalar."""

    target: Tensor
    """Shares of the dense network to reach, shape ``(constraints,)``."""

    multiplier: Tensor
    """The price for each constraint, in the loss's unit, shape ``(constraints,)``."""

    violation: Tensor
    """Realised share minus the target at that step, shape ``(constraints,)``."""


class Lagrangian(NamedTuple):
    """A controller as pure functions; :func:`lagrangian` makes it."""

    init: Callable[[Tree], LagrangianState]
    """``init(gates)``: the state to start from."""

    penalty: Callable[[LagrangianState, Tree], Tensor]
    """``penalty(state, gates)``: a scalar to add to the loss, differentiable in the gates."""

    update: Callable[[LagrangianState, Tree], LagrangianState]
    """``update(state, gates)``: the state after a training step."""


def lagrangian(
    spec: GateSpec,
    target: Target,
    *,
    measure: Measure = "density",
    counts: MacCounts | None = None,
    estimator: MaskEstimator = "louizos",
    equality: bool = False,
    lr: float = 1e-3,
    damping: float = 0.03,
    warmup: int = 0,
    restart: bool = True,
) -> Lagrangian:
    r"""A controller that reaches a target.

    For each constraint, let :math:`d(z)` be the share of the dense network that test-time gates
    keep, and :math:`c` its target. Then

    .. math::
        \text{penalty} = \max(0, \mu + \rho g)\, (E[d] / c - 1), \quad g = d(\hat z) / c - 1,
        \quad \mu \leftarrow \max(0, \mu + \eta g)

    The gates follow the expectation's gradient. The multiplier follows the realised share, so the
    pruned network meets the target. Excesses are relative to the target, so a target of 2 % is
    reached as soon as one of 20 %. With ``equality=True`` both maxima are left out.

    Source: Gallego-Posada et al. (2022), arXiv:2208.04425 (constrained L0, dual restarts); Cotter
    et al. (2019), arXiv:1804.06500 (a differentiable proxy for the primal, the true constraint for
    the dual); :math:`\rho` makes it a proportional and integral controller.

    Args:
        spec: The gate spec.
        target: The share that may stay, in (0, 1), among all entries that the spec saw, ungated
            ones included; or ``{pattern: share}`` over parameter paths, one constraint for each
            pattern. For ``measure="l0"`` entry counts in place of shares.
        measure: ``"density"`` or ``"l0"``: parameter entries; ``"macs"``: multiply-adds, as a
            share of ``counts.total``.
        counts: Multiply-adds from :func:`l0func.count_macs`, for ``measure="macs"``.
        estimator: The test-time gates behind the realised share: ``"louizos"``, ``"median"`` or
            ``"count"``.
        equality: Whether to hold the share at the target from both sides; by default it may fall
            below. With equality the share swings around the target for longer, since gates that
            are far closed hardly move: give it more damping, and a warm-up.
        lr: :math:`\eta`, loss per step. A multiplier needs about ``multiplier / (lr * relative
            excess)`` steps.
        damping: :math:`\rho`, in the loss's unit: an immediate answer to an excess. It keeps the
            multiplier from overshooting.
        warmup: Number of updates in which the target falls linearly from 1 to its value.
        restart: Whether a multiplier starts again from 0 when its constraint holds; only
            without ``equality``.

    Returns:
        ``init(gates)``, ``penalty(state, gates)``, ``update(state, gates)``; all pure. Members
        in a sweep may have different targets, since targets are in the state; all other settings
        belong to this controller.

    Raises:
        TypeError: ``spec`` is not a spec; a number is none; or counts are not from
            :func:`l0func.count_macs`.
        ValueError: A target is outside its range, or below the share that has no gates; a pattern
            matches nothing; counts are missing, or given for another measure than
            ``"macs"``; the estimator never closes a gate; a rate is negative or not finite.

    Example:
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.zeros(8)})
        >>> control = l0.lagrangian(spec, 0.25)
        >>> control.update(control.init({"w": torch.zeros(8)}), {"w": torch.zeros(8)}).violation
        tensor([0.7500])
    """
    check_spec(spec)
    _check_measure(measure, counts)
    _check_estimator(estimator)
    _check_rates(lr=lr, damping=damping, warmup=warmup)
    constraints = constraints_of(target, spec, measure, counts)
    controller = _Controller(
        spec, constraints, estimator, equality, lr, damping, warmup, restart and not equality
    )
    return Lagrangian(controller.init, controller.penalty, controller.update)


@dataclass(frozen=True)
class _Controller:
    """The functions in a :class:`Lagrangian` and their settings."""

    spec: GateSpec
    constraints: tuple[Constraint, ...]
    estimator: MaskEstimator
    equality: bool
    lr: float
    damping: float
    warmup: int
    restart: bool

    def init(self, gates: Tree, /) -> LagrangianState:
        named = check_gates(gates, self.spec)
        like = self._shares(named)
        step = torch.zeros((), dtype=torch.int64, device=like.device)
        target = like.new_tensor([constraint.target for constraint in self.constraints])
        state = LagrangianState(step, target, target * 0, target * 0)
        return state._replace(violation=self._violation(state, named).detach())

    def penalty(self, state: LagrangianState, gates: Tree, /) -> Tensor:
        self._check_state(state)
        named = check_gates(gates, self.spec)
        answer = self.damping * state.violation / state.target
        price = self._limited(state.multiplier + answer)
        excess = self._shares(self._expected_opens(named)) / state.target - 1
        return (price.detach() * excess).sum()

    def update(self, state: LagrangianState, gates: Tree, /) -> LagrangianState:
        violation = self._violation(state, check_gates(gates, self.spec)).detach()
        change = self.lr * violation / state.target
        multiplier = self._limited(state.multiplier + change)
        if self.restart:
            multiplier = torch.where(violation <= 0, 0.0, multiplier)
        return LagrangianState(state.step + 1, state.target, multiplier, violation)

    def _expected_opens(self, gates: Gates) -> Gates:
        opens: Gates = {}
        for gate in self.spec.gates:
            opens[gate.name] = gate.distribution.prob_nonzero(gates[gate.name])
        return opens

    def _violation(self, state: LagrangianState, gates: Gates) -> Tensor:
        """Realised shares minus the targets at this step, shape ``(constraints,)``."""
        self._check_state(state)
        test_time = deterministic_gates(gates, self.spec, self.estimator)
        opens = {name: _opens(gates[name], z) for name, z in test_time.items()}
        return self._shares(opens) - self._current_target(state)

    def _current_target(self, state: LagrangianState) -> Tensor:
        ramp: Tensor | float = 1.0
        if self.warmup:
            ramp = ((state.step + 1) / self.warmup).clamp(max=1.0)
        return 1 - ramp * (1 - state.target)

    def _shares(self, opens: Gates) -> Tensor:
        """For each constraint the share that stays when gates are open by these weights."""
        wide = _at_least_float32(opens)
        return torch.stack([constraint.share(wide, self.spec) for constraint in self.constraints])

    def _limited(self, multiplier: Tensor) -> Tensor:
        return multiplier.clamp(min=-torch.inf if self.equality else 0.0)

    def _check_state(self, state: LagrangianState) -> None:
        if state.target.shape != (len(self.constraints),):
            raise ValueError(
                f"This controller has {len(self.constraints)} constraints and the state has "
                f"targets of shape {tuple(state.target.shape)}: it is another controller's, or a "
                "stack, which training(in_dims=...) maps."
            )


def _opens(log_alpha: Tensor, z: Tensor) -> Tensor:
    """1 where a test-time gate is open, 0 where it is closed, NaN where its location is NaN."""
    # A NaN is neither open nor closed: a diverged network must not meet a target.
    is_open = (z != 0).to(z.dtype)
    return torch.where(log_alpha.isnan(), torch.nan, is_open)


def _at_least_float32(opens: Gates) -> Gates:
    # Half precision cannot count the entries of a large parameter.
    dtypes = [t.dtype for t in opens.values()]
    dtype = reduce(torch.promote_types, dtypes, torch.float32)
    return {name: t.to(dtype) for name, t in opens.items()}


def _check_measure(measure: str, counts: MacCounts | None) -> None:
    if measure not in MEASURES:
        raise ValueError(
            f"measure is one of {MEASURES}; got {measure!r}{names.closest(measure, MEASURES)}."
        )
    if counts is not None:
        check_counts(counts)
    if (counts is None) == (measure == "macs"):
        raise ValueError(
            "counts, from l0func.count_macs, go with measure='macs', and with nothing else."
        )


def _check_estimator(estimator: str) -> None:
    closing = [name for name in ESTIMATORS if name != "mean"]
    if estimator not in closing:
        raise ValueError(
            f"A target is a share that the estimator keeps; estimators for it are {closing}, got "
            f"{estimator!r}. 'mean' never closes a gate."
        )


def _check_rates(**rates: float) -> None:
    for name, value in rates.items():
        check_number(name, value)
        if not 0.0 <= value < torch.inf:
            raise ValueError(f"{name} is a finite number, at least 0; got {value}.")
