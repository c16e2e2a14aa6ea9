"""The controller that reaches a target: one multiplier for each constraint replaces a fixed λ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l0func.costs.latency import LatencyTable
from l0func.costs.macs import MacCounts
from l0func.gates.checks import ESTIMATORS, Gates, MaskEstimator, check_gates
from l0func.gates.masks import deterministic_gates
from l0func.internal import tree
from l0func.internal.context import known_values
from l0func.internal.shard_sums import full_sums
from l0func.internal.tree import Tree, TreeT
from l0func.spec.plan import GateSpec, check_spec
from l0func.train.ahead import ShareAhead, can_look_ahead, searched
from l0func.train.constraints import (
    Constraint,
    Measure,
    Target,
    check_control_state,
    check_floor,
    check_measure,
    constraints_of,
    shares_of,
)
from l0func.train.floors import with_floors
from l0func.train.holding import ROUNDING, Enough, least_shift, location_of, raised
from l0func.train.numbers import check_number
from l0func.train.opens import at_least_float32, open_or_nan


class LagrangianState(NamedTuple):
    """The state that a controller carries from step to step.

    All fields are tensors, so the state is mapped, saved and resumed like parameters.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.zeros(8)})
        >>> state = l0.lagrangian(spec, 0.25).init({"w": torch.zeros(8)})
        >>> state.target
        tensor([0.2500])
    """

    step: Tensor
    """Number of updates so far, an int64 scalar."""

    target: Tensor
    """Shares of the dense network to reach, shape ``(constraints,)``."""

    multiplier: Tensor
    """The price for each constraint, in the loss's unit, shape ``(constraints,)``."""

    violation: Tensor
    """Realised share minus the target at that step, shape ``(constraints,)``."""


class Hold(Protocol):
    """How a controller keeps gates open."""

    def __call__(self, state: LagrangianState, gates: TreeT, /) -> TreeT:
        """The gates, raised where too few are open."""
        ...


class Lagrangian(NamedTuple):
    """A controller as pure functions; :func:`lagrangian` makes it.

    In a loop of your own call ``penalty`` in the loss, then ``hold`` on the gates after the
    optimizer's step, then ``update``. :func:`l0func.training` does all three.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.zeros(8)})
        >>> control = l0.lagrangian(spec, 0.25, lr=0.1)
        >>> gates = {"w": torch.zeros(8)}
        >>> state = control.update(control.init(gates), gates)
        >>> control.penalty(state, gates) > 0  # all gates are open, so it has a price
        tensor(True)
    """

    init: Callable[[Tree], LagrangianState]
    """``init(gates)``: the state to start from."""

    penalty: Callable[[LagrangianState, Tree], Tensor]
    """``penalty(state, gates)``: a scalar to add to the loss, differentiable in the gates."""

    update: Callable[[LagrangianState, Tree], LagrangianState]
    """``update(state, gates)``: the state after a training step."""

    hold: Hold
    """``hold(state, gates)``: the gates, raised where fewer are open than the controller allows.

    All locations rise by one number, so that the likeliest gates open again first. No single gate
    is opened across the target.
    """

    is_low: Callable[[LagrangianState, Tree], Tensor]
    """``is_low(state, gates)``: a bool scalar. Where it is false, ``hold`` raises no gate."""


def lagrangian(
    spec: GateSpec,
    target: Target,
    *,
    measure: Measure = "density",
    counts: MacCounts | None = None,
    table: LatencyTable | None = None,
    estimator: MaskEstimator = "louizos",
    equality: bool = False,
    lr: float = 1e-2,
    damping: float = 0.03,
    warmup: int = 0,
    restart: bool = True,
    floor: int = 0,
) -> Lagrangian:
    r"""A controller that reaches a target.

    For each constraint, let :math:`d(z)` be the share of the dense network that test-time gates
    keep, and :math:`c` its target. Then

    .. math::
        \text{penalty} = \max(0, \mu + \rho g)\, (E[d] / c - 1), \quad g = d(\hat z) / c - 1,
        \quad \mu \leftarrow \max(0, \mu + \eta g)

    The gates follow the expectation's gradient; a gate with P(z ≠ 0) above 0.9999 follows the
    gradient there, since its own vanishes. The multiplier follows the realised share, so the
    pruned network comes close to the target: within a point, or within a few units where one unit
    is more. Excesses are relative to the target, so a target of 2 % is
    reached as soon as one of 20 %. With ``equality=True`` both maxima are left out.

    A price alone overshoots where gates learn fast: all of them close together, and a closed gate
    hardly learns. So ``hold`` bounds the share from below, by the target less half a point or a
    twentieth of the target, the smaller of both. Where the share is lower, all gate locations
    rise by the smallest number that brings it back; so the likeliest gates open again first. A
    gate that alone would step over the target stays closed, and the multiplier then falls at a
    tenth of its rate. Less likely gates stay closed behind it: give units of very unlike sizes
    patterns of their own. A location where P(z ≠ 0) is above 0.9999 rises no farther.

    Source: Gallego-Posada et al. (2022), arXiv:2208.04425 (constrained L0, dual restarts); Cotter
    et al. (2019), arXiv:1804.06500 (a differentiable proxy for the primal, the true constraint for
    the dual); :math:`\rho` makes it a proportional and integral controller.

    Args:
        spec: The gate spec.
        target: The share that may stay, in (0, 1), among all entries that the spec saw, ungated
            ones included; or ``{pattern: share}`` over parameter paths, one constraint for each
            pattern. For ``measure="l0"`` entry counts in place of shares.
        measure: ``"density"`` or ``"l0"``: parameter entries; ``"macs"``: multiply-adds, as a
            share of ``counts.total``; ``"ms"``: milliseconds at the numbers of open units, as a
            share of ``table.dense``.
        counts: Multiply-adds from :func:`l0func.count_macs`, for ``measure="macs"``.
        table: Milliseconds from :func:`l0func.latency_table`, for ``measure="ms"``.
        estimator: The test-time gates behind the realised share: ``"louizos"``, ``"median"`` or
            ``"count"``.
        equality: Whether the price may be negative, so that it opens gates while the share is
            below the target. The share then swings around the target for longer, since gates that
            are far closed hardly move: give it more damping, and a warm-up.
        lr: :math:`\eta`, loss per step. A multiplier needs about ``multiplier / (lr * relative
            excess)`` steps.
        damping: :math:`\rho`, in the loss's unit: an immediate answer to an excess. It keeps the
            multiplier from overshooting.
        warmup: Number of updates in which the target falls linearly from 1 to its value.
        restart: Whether a multiplier starts again from 0 when the share is lower than ``hold``
            allows by more than the largest gate, in a loop without ``hold``; only without
            ``equality``.
        floor: The number of gates in each gate vector that stay open, such as units in a group.
            A vector with fewer gates keeps all of them.

    Returns:
        ``init(gates)``, ``penalty(state, gates)``, ``update(state, gates)``, ``hold(state,
        gates)`` and ``is_low(state, gates)``; all pure. Members
        in a sweep may have different targets, since targets are in the state; all other settings
        belong to this controller.

    Raises:
        TypeError: ``spec`` is not a spec; a number is none; counts are not from
            :func:`l0func.count_macs`; or the table is not from :func:`l0func.latency_table`.
        ValueError: A target is outside its range, or below the share that has no gates or that
            ``floor`` keeps; a pattern matches nothing; counts or a table are missing, or given
            for another measure; the table is another network's, or lacks a group; the estimator
            never closes a gate; or a rate is negative or not finite.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> spec = l0.gate_spec({"w": torch.zeros(8)})
        >>> control = l0.lagrangian(spec, 0.25)
        >>> control.update(control.init({"w": torch.zeros(8)}), {"w": torch.zeros(8)}).violation
        tensor([0.7500])
    """
    check_spec(spec)
    check_measure(measure, counts, table, spec)
    _check_estimator(estimator)
    _check_rates(lr=lr, damping=damping, warmup=warmup)
    constraints = constraints_of(target, spec, measure, table if counts is None else counts)
    floor = check_floor(floor, constraints, spec)
    controller = _Controller(
        spec=spec,
        constraints=constraints,
        estimator=estimator,
        equality=equality,
        lr=lr,
        damping=damping,
        warmup=warmup,
        restart=restart and not equality,
        floor=floor,
        steps=tuple(constraint.largest_step(spec) for constraint in constraints),
        caps={gate.name: location_of(gate, _ALMOST_OPEN) for gate in spec.gates},
    )
    return Lagrangian(
        controller.init,
        controller.penalty,
        controller.update,
        controller.hold,
        controller.is_low,
    )


_ALMOST_OPEN = 0.9999
_MARGIN = 0.05
_POINT = 0.01
_SETTLED = 0.1
"""How fast a multiplier falls, relative to ``lr``, while the next gate would miss the target."""


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
    floor: int
    steps: tuple[float, ...]
    """For each constraint the largest share of one gate."""
    caps: Mapping[str, float]
    """For each gate vector the location above which gates follow the gradient there."""

    def init(self, gates: Tree, /) -> LagrangianState:
        named = check_gates(gates, self.spec)
        opens = self._opens(named)
        like = self._shares(opens)
        step = torch.zeros((), dtype=torch.int64, device=like.device)
        targets = [constraint.target for constraint in self.constraints]
        target = torch.tensor(targets, dtype=like.dtype, device=like.device)
        state = LagrangianState(step, target, target * 0, target * 0)
        violation = like - self._current_target(state)
        return state._replace(violation=violation.detach())

    def penalty(self, state: LagrangianState, gates: Tree, /) -> Tensor:
        self._check_state(state)
        named = check_gates(gates, self.spec)
        answer = self.damping * state.violation / state.target
        price = self._limited(state.multiplier + answer)
        excess = self._shares(self._expected_opens(named)) / state.target - 1
        return (price.detach() * excess).sum()

    def update(self, state: LagrangianState, gates: Tree, /) -> LagrangianState:
        self._check_state(state)
        violation = self._violation(state, check_gates(gates, self.spec)).detach()
        change = self.lr * violation / state.target
        low = self._lowest(state) - self._current_target(state) - violation
        step = torch.tensor(self.steps, dtype=low.dtype, device=low.device)
        is_far = low > step + ROUNDING
        # `hold` left it so, as no gate fits: a price that falls fast would open one again.
        change = torch.where((low > 0) & ~is_far, _SETTLED * change, change)
        multiplier = self._limited(state.multiplier + change)
        if self.restart:
            multiplier = torch.where(is_far, 0.0, multiplier)
        return LagrangianState(state.step + 1, state.target, multiplier, violation)

    def is_low(self, state: LagrangianState, gates: Tree, /) -> Tensor:
        self._check_state(state)
        named = check_gates(gates, self.spec)
        opens = self._opens(named)
        low = self._shares(opens) < self._lowest(state)
        return low.any() | self._is_below_floor(opens) if self.floor else low.any()

    @torch.no_grad()
    def hold(self, state: LagrangianState, gates: TreeT, /) -> TreeT:
        self._check_state(state)
        named = check_gates(gates, self.spec)
        if self.floor:
            named = with_floors(named, self.spec, self.floor, self.estimator, self.caps)
        return tree.rebuild(gates, self._reaching(named, state))

    def _reaching(self, gates: Gates, state: LagrangianState) -> Gates:
        lowest, highest = self._lowest(state), self._current_target(state)
        named, shares = gates, self._shares(self._opens(gates))
        for number, constraint in enumerate(self.constraints):
            share_of = partial(self._share, constraint)
            enough = Enough(share_of, lowest[number], most=highest[number])
            # What an earlier constraint has raised counts for the next one.
            now = shares[number] if named is gates else share_of(named)
            if known_values(now >= enough.least):
                # The usual case, without the search, which costs many calls.
                continue
            if can_look_ahead(constraint, named):
                at = ShareAhead(constraint, named, self.spec, self.estimator)
                enough = enough._replace(at=at)
            caps = {name: self.caps[name] for name in constraint.gates}
            numbers = partial(self._numbers_open, constraint.gates)
            shift = least_shift(searched(constraint, named), caps, enough, now, numbers)
            named = raised(named, caps, shift)
        return named

    def _share(self, constraint: Constraint, gates: Gates) -> Tensor:
        return constraint.share(at_least_float32(self._opens(gates)), self.spec)

    def _numbers_open(self, chosen: Sequence[str], each: Sequence[Gates]) -> list[Tensor]:
        """How many of the chosen vectors' gates are open, for each of several gates."""
        opens = [at_least_float32(self._opens(gates)) for gates in each]
        sums = full_sums([own[name] for own in opens for name in chosen])
        count = len(chosen)
        parts = [sums[i * count : (i + 1) * count] for i in range(len(each))]
        return [torch.stack(list(part)).sum() for part in parts]

    def _is_below_floor(self, opens: Gates) -> Tensor:
        sums = full_sums(opens.values())
        pairs = zip(sums, opens.values(), strict=True)
        missing = [total < min(self.floor, t.numel()) for total, t in pairs]
        return torch.stack(missing).any()

    def _lowest(self, state: LagrangianState) -> Tensor:
        """The shares below which gates are raised, shape ``(constraints,)``."""
        target = self._current_target(state)
        return target - (_MARGIN * target).clamp(max=_POINT / 2)

    def _expected_opens(self, gates: Gates) -> Gates:
        opens: Gates = {}
        for gate in self.spec.gates:
            log_alpha, cap = gates[gate.name], self.caps[gate.name]
            prob_nonzero = gate.distribution.prob_nonzero
            # Farther open the gradient vanishes, and no price would close the gate.
            slope = prob_nonzero(log_alpha + (log_alpha.clamp(max=cap) - log_alpha).detach())
            opens[gate.name] = slope + (prob_nonzero(log_alpha) - slope).detach()
        return opens

    def _violation(self, state: LagrangianState, gates: Gates) -> Tensor:
        """Realised shares minus the targets at this step, shape ``(constraints,)``."""
        return self._shares(self._opens(gates)) - self._current_target(state)

    def _opens(self, gates: Gates) -> Gates:
        test_time = deterministic_gates(gates, self.spec, self.estimator)
        return {name: open_or_nan(gates[name], z) for name, z in test_time.items()}

    def _current_target(self, state: LagrangianState) -> Tensor:
        ramp: Tensor | float = 1.0
        if self.warmup:
            ramp = ((state.step + 1) / self.warmup).clamp(max=1.0)
        return 1 - ramp * (1 - state.target)

    def _shares(self, opens: Gates) -> Tensor:
        """For each constraint the share that stays when gates are open by these weights."""
        wide = at_least_float32(opens)
        return torch.stack(shares_of(self.constraints, wide, self.spec))

    def _limited(self, multiplier: Tensor) -> Tensor:
        return multiplier.clamp(min=-torch.inf if self.equality else 0.0)

    def _check_state(self, state: LagrangianState) -> None:
        check_control_state(state, LagrangianState, len(self.constraints))


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
