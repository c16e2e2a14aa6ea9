"""A target in place of λ: a multiplier for every constraint, that learns what reaching it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from l0func.costs.expected import entry_sum
from l0func.costs.macs import MacCounts, macs_of
from l0func.gates.checks import ESTIMATORS, Gates, MaskEstimator, check_gates
from l0func.gates.masks import deterministic_gates
from l0func.internal import names
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, ParameterPlan, check_spec

Measure = Literal["density", "l0", "macs"]
Target: TypeAlias = float | Mapping[str, float]

MEASURES: tuple[Measure, ...] = ("density", "l0", "macs")


class LagrangianState(NamedTuple):
    """What a controller remembers: tensors, so that it vmaps, is saved and resumed like
    parameters.
    """

    step: Tensor
    """How many updates there were, an int64 scalar."""

    target: Tensor
    """Shares of the dense network, shape ``(constraints,)``."""

    multiplier: Tensor
    """In units of the loss, shape ``(constraints,)``."""

    violation: Tensor
    """Realised share minus the target of that step, shape ``(constraints,)``."""


class Lagrangian(NamedTuple):
    """What :func:`lagrangian` returns."""

    init: Callable[[Tree], LagrangianState]
    """``init(gates)``: the state to start from."""

    penalty: Callable[[LagrangianState, Tree], Tensor]
    """``penalty(state, gates)``: a scalar to add to the loss, differentiable in the gates."""

    update: Callable[[LagrangianState, Tree], LagrangianState]
    """``update(state, gates)``: the state after a step of training."""


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

    For each constraint, with :math:`d(z)` the share of the dense network that test-time gates keep
    and :math:`c` its target,

    .. math::
        \text{penalty} = \max(0, \mu + \rho g)\, (E[d] / c - 1), \quad g = d(\hat z) / c - 1,
        \quad \mu \leftarrow \max(0, \mu + \eta g)

    The gates follow the gradient of the expectation; the multiplier answers to what is realised,
    so that what was asked for is what is kept. Excesses are relative to the target, so that 2 % is
    reached as soon as 20 %. Without the maxima for ``equality=True``.

    Source: Gallego-Posada et al. (2022), arXiv:2208.04425 (constrained L0, dual restarts); Cotter
    et al. (2019), arXiv:1804.06500 (a differentiable proxy for the primal, the true constraint for
    the dual); :math:`\rho` makes it a proportional and integral controller.

    Args:
        spec: The plan.
        target: What may stay, a share in (0, 1) of all entries that the spec saw, ungated ones
            included; or ``{pattern: share}`` over parameter paths, a constraint each. For
            ``measure="l0"`` numbers of entries.
        measure: ``"density"`` or ``"l0"``: parameter entries; ``"macs"``: multiply-adds, as a
            share of ``counts.total``.
        counts: What :func:`l0func.count_macs` returned, for ``measure="macs"``.
        estimator: The test-time gates that the realised share is of: ``"louizos"``, ``"median"``
            or ``"count"``.
        equality: Whether to hold the share at the target from both sides, rather than at most
            there. It swings around the target for longer, since gates that are far closed hardly
            move: give it more damping, and a warm-up.
        lr: :math:`\eta`, loss per step. A multiplier needs about ``multiplier / (lr * relative
            excess)`` steps.
        damping: :math:`\rho`, in units of the loss: an answer without delay, which keeps the
            multiplier from overshooting.
        warmup: Updates over which the target falls linearly from 1 to its value.
        restart: Whether the multiplier of a constraint that holds starts again from 0; only
            without ``equality``.

    Returns:
        ``init(gates)``, ``penalty(state, gates)``, ``update(state, gates)``; all pure. In a sweep
        the members' targets may differ, for they are in the state; all else is this controller's.

    Raises:
        TypeError: ``spec`` is not a spec.
        ValueError: A target is outside its range, or below what parameters without gates cost; a
            pattern matches nothing; counts are missing; the estimator never closes a gate; a rate
            is negative.

    Example:
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.zeros(8)})
        >>> control = l0.lagrangian(spec, 0.25)
        >>> control.update(control.init({"w": torch.zeros(8)}), {"w": torch.zeros(8)}).violation
        tensor([0.7500])
    """
    check_spec(spec)
    _check_arguments(measure, counts, estimator, lr, damping, warmup)
    constraints = _constraints(target, spec, measure, counts)
    lowest = 0.0 if not equality else -torch.inf

    def share(opens: Gates) -> Tensor:
        # At least float32: entries are counted beyond what half precision holds.
        dtype = reduce(torch.promote_types, [t.dtype for t in opens.values()], torch.float32)
        wide = {name: t.to(dtype) for name, t in opens.items()}
        return torch.stack([constraint.share(wide, spec) for constraint in constraints])

    def check(state: LagrangianState) -> None:
        if state.target.shape != (len(constraints),):
            raise ValueError(
                f"This controller has {len(constraints)} constraints and the state has targets of "
                f"shape "
                f"{tuple(state.target.shape)}: it is another controller's, or a stack, which "
                f"training(in_dims=...) maps."
            )

    def violation(state: LagrangianState, gates: Gates) -> Tensor:
        check(state)
        z = deterministic_gates(gates, spec, estimator)
        # A NaN is neither open nor closed, and a diverged network meets no target.
        opens = {
            name: torch.where(gates[name].isnan(), torch.nan, (value != 0).to(value.dtype))
            for name, value in z.items()
        }
        ramp = ((state.step + 1) / warmup).clamp(max=1.0) if warmup else 1.0
        return share(opens) - (1 - ramp * (1 - state.target))

    def init(gates: Tree, /) -> LagrangianState:
        named = check_gates(gates, spec)
        like = share(named)
        goal = like.new_tensor([constraint.target for constraint in constraints])
        state = LagrangianState(
            torch.zeros((), dtype=torch.int64, device=like.device), goal, goal * 0, goal * 0
        )
        return state._replace(violation=violation(state, named).detach())

    def penalty(state: LagrangianState, gates: Tree, /) -> Tensor:
        check(state)
        named = check_gates(gates, spec)
        price = (state.multiplier + damping * state.violation / state.target).clamp(min=lowest)
        expected = share({g.name: g.distribution.prob_nonzero(named[g.name]) for g in spec.gates})
        return (price.detach() * (expected / state.target - 1)).sum()

    def update(state: LagrangianState, gates: Tree, /) -> LagrangianState:
        excess = violation(state, check_gates(gates, spec)).detach()
        multiplier = (state.multiplier + lr * excess / state.target).clamp(min=lowest)
        if restart and not equality:
            multiplier = torch.where(excess <= 0, 0.0, multiplier)
        return LagrangianState(state.step + 1, state.target, multiplier, excess)

    return Lagrangian(init, penalty, update)


class _Constraint(NamedTuple):
    """Some parameters, or the multiply-adds with them, and the share of these that may stay."""

    parameters: tuple[ParameterPlan, ...]
    counts: MacCounts | None
    target: float

    def share(self, opens: Gates, spec: GateSpec) -> Tensor:
        """The share that is there, each gate open by the given weight."""
        if self.counts is not None:
            return macs_of(opens, spec, self.counts) / self.counts.total
        kept = next(iter(opens.values())).new_zeros(())
        for p in self.parameters:
            kept = kept + _kept(p, opens)
        return kept / self.size

    @property
    def size(self) -> int:
        return sum(p.size for p in self.parameters)


def _kept(p: ParameterPlan, opens: Gates) -> Tensor | int:
    return entry_sum(p.spread(opens, owned=True), p) if p.bindings else p.size


def _constraints(
    target: Target, spec: GateSpec, measure: Measure, counts: MacCounts | None
) -> list[_Constraint]:
    wanted = target if isinstance(target, Mapping) else {"*": target}
    if not wanted or not spec.gates:
        raise ValueError(
            "A target needs gates to reach it with, and at least one pattern; got none."
        )
    names.check_patterns(wanted, [p.path for p in spec.parameters], "parameter")
    return [
        _constraint(pattern, float(value), spec, measure, counts)
        for pattern, value in wanted.items()
    ]


def _constraint(
    pattern: str, value: float, spec: GateSpec, measure: Measure, counts: MacCounts | None
) -> _Constraint:
    chosen = tuple(p for p in spec.parameters if fnmatchcase(p.path, pattern))
    if counts is not None and len(chosen) < len(spec.parameters):
        counts = counts.only(p.path for p in chosen)
    size = sum(p.size for p in chosen)
    constraint = _Constraint(chosen, counts, value / size if measure == "l0" else value)
    if not 0.0 < constraint.target < 1.0:
        rule = (
            f"a number of entries between 0 and {size}"
            if measure == "l0"
            else "a share of the dense network in (0, 1)"
        )
        raise ValueError(f"The target of {pattern!r} is {rule}; got {value}.")
    if counts is not None and not counts.total:
        raise ValueError(
            f"Nothing that {pattern!r} matches is multiplied, so that no share of it can be a "
            f"target."
        )
    _check_reachable(constraint, pattern, value, spec, measure)
    return constraint


def _check_reachable(
    constraint: _Constraint, pattern: str, value: float, spec: GateSpec, measure: Measure
) -> None:
    closed = {gate.name: torch.zeros(gate.shape, dtype=torch.float64) for gate in spec.gates}
    bound = float(constraint.share(closed, spec))
    if constraint.target < bound:
        stays = [p.path for p in constraint.parameters if _kept(p, closed)]
        unit = (
            f"{bound * constraint.size:.0f} entries" if measure == "l0" else f"{bound:.4g} of it"
        )
        raise ValueError(
            f"The target of {pattern!r} is {value}, but with every gate closed {unit} is still "
            f"there: "
            f"{', '.join(map(repr, stays[:4]))}{' and others' if len(stays) > 4 else ''} have "
            f"entries without gates. "
            "Gate them, let groups own them, exclude them by a pattern, or raise the target."
        )


def _check_arguments(
    measure: str, counts: MacCounts | None, estimator: str, lr: float, damping: float, warmup: int
) -> None:
    if measure not in MEASURES:
        raise ValueError(
            f"measure is one of {MEASURES}; got {measure!r}{names.closest(measure, MEASURES)}."
        )
    if (counts is None) == (measure == "macs"):
        raise ValueError(
            "counts, from l0func.count_macs, go with measure='macs', and with nothing else."
        )
    closing = [name for name in ESTIMATORS if name != "mean"]
    if estimator not in closing:
        raise ValueError(
            f"A target is of what the estimator keeps, one of {closing}; got {estimator!r}. "
            f"'mean' never closes a gate."
        )
    for name, value in (("lr", lr), ("damping", damping), ("warmup", warmup)):
        if not 0.0 <= value < torch.inf:
            raise ValueError(f"{name} is a finite number, at least 0; got {value}.")
