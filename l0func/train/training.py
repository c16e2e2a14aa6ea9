"""Training as a pure function: state and batch in, state and loss out.

One function serves a single network and a sweep over stacked networks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func import random
from l0func.gates.checks import check_can_learn
from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.train.gradients import gradients_of
from l0func.train.lagrangian import Lagrangian, LagrangianState
from l0func.train.objective import Objective
from l0func.train.optimizer import Moments, Optimizer
from l0func.train.stacks import check_members
from l0func.train.state import TrainState


class Training(NamedTuple):
    """Training as two pure functions; :func:`training` makes them."""

    init: Callable[[Tensor, Tree, Tree, Tree], TrainState]
    """``init(key, params, gates, buffers)``: the state to start from."""

    step: Callable[..., tuple[TrainState, Tensor]]
    """``step(state, *inputs)``: the next state, and the loss before the step."""


def training(
    loss: Callable[..., Any],
    params: Optimizer,
    gates: Optimizer,
    *,
    control: Lagrangian | None = None,
    average: float = 0.0,
    in_dims: Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
    donate: bool = False,
) -> Training:
    r"""A training step as a pure function.

    Averages are exponential, over the states after each step: after t steps the state after step i
    weighs :math:`\beta^{t-i}(1-\beta)/(1-\beta^t)`.

    Args:
        loss: ``loss(params, gates, buffers, key, *inputs)`` returns a scalar, or a scalar and new
            buffers. Values that change from step to step (a batch, λ) are inputs; pass numbers as
            tensors.
        params: The optimizer for the parameters.
        gates: The optimizer for the gates, without weight decay, and with a larger learning rate.
        control: A controller. The step adds its penalty and updates its state.
        average: :math:`\beta` for averages over params and gates, in [0, 1); 0 keeps none.
        in_dims: For a sweep: the member dimension in each input, None for an input that all
            members share. The state is then a stack, see :func:`stack`.
        chunk_size: Number of members to compute at once in a sweep; None is all. Memory falls
            with it. A convolution over mapped weights is a grouped convolution, and a CPU may
            compute it more slowly than one member after another.
        compile: Whether to compile the gradient with ``torch.compile``.
        donate: Whether a step may write into its state. The given state is then used up.

    Returns:
        ``init(key, params, gates, buffers)`` and ``step(state, *inputs)``.

    Raises:
        TypeError: An optimizer is not from :func:`l0func.optimizer`, or ``control`` not a
            controller; ``in_dims`` is no sequence; in a step, the loss returned neither a scalar
            nor a scalar and buffers.
        ValueError: The gates' optimizer has weight decay; an optimizer in a sweep couples
            entries; ``average`` is outside [0, 1); ``chunk_size`` is not positive, or there is no
            sweep; in a step, the state is another training's, or the loss returned other buffers
            than it was given.
    """
    _check_optimizer("params", params, in_dims)
    _check_optimizer("gates", gates, in_dims)
    _check_no_decay(gates)
    _check_control(control)
    _check_average(average)
    _check_sweep(in_dims, chunk_size)
    gradients = gradients_of(Objective(loss, control), in_dims, chunk_size, compile)
    functions = _TrainingFunctions(params, gates, gradients, control, average, in_dims, donate)
    return Training(functions.init, functions.step)


@dataclass(frozen=True)
class _TrainingFunctions:
    """The functions in a :class:`Training` and their settings."""

    params_optimizer: Optimizer
    gates_optimizer: Optimizer
    gradients: Callable[..., Any]
    control: Lagrangian | None
    average: float
    in_dims: Sequence[int | None] | None
    donate: bool

    def init(self, key: Tensor, params: Tree, gates: Tree, buffers: Tree, /) -> TrainState:
        random.check_key(key)
        check_can_learn(tree.leaves(gates, "gates"))
        control = None if self.control is None else self.control.init(gates)
        step = torch.zeros((), dtype=torch.int64, device=key.device)
        moments: dict[str, Moments] = {}
        moments["params"] = self.params_optimizer.init(params)
        moments["gates"] = self.gates_optimizer.init(gates)
        return TrainState(
            step=step,
            key=key,
            params=_copied(params),
            gates=_copied(gates),
            buffers=_copied(buffers),
            moments=moments,
            averages=self._first_averages(params, gates),
            control=control,
        )

    def _first_averages(self, params: Tree, gates: Tree) -> dict[str, dict[str, Tensor]]:
        named = {"params": tree.leaves(params), "gates": tree.leaves(gates, "gates")}
        return {} if self.average == 0.0 else _copied(named)

    def step(self, state: TrainState, /, *inputs: Any) -> tuple[TrainState, Tensor]:
        _check_state(state, self.control, self.average)
        if self.in_dims is not None:
            check_members(state, inputs, self.in_dims)
        key = random.fold_in(state.key, state.step)
        trained = (state.params, state.gates)
        # vmap does not take None as a pytree without leaves; an empty tuple is one.
        control_state: Any = () if state.control is None else state.control
        grads, (value, buffers) = self.gradients(
            trained, state.buffers, key, control_state, *inputs
        )
        moved = self._moved(state, *grads)
        averages = _averaged(state.averages, moved, self.average, state.step)
        control = self._updated_control(state.control, moved.gates)
        following = moved._replace(
            step=state.step + 1, buffers=buffers, averages=averages, control=control
        )
        return following, value.detach()

    def _moved(self, state: TrainState, params_grads: Tree, gates_grads: Tree) -> TrainState:
        """The state after both optimizers: new params, gates and moments."""
        before, step = state.moments, state.step
        moments: dict[str, Moments] = {}
        params, moments["params"] = self.params_optimizer.update(
            params_grads, before["params"], state.params, step, donate=self.donate
        )
        gates, moments["gates"] = self.gates_optimizer.update(
            gates_grads, before["gates"], state.gates, step, donate=self.donate
        )
        return state._replace(params=params, gates=gates, moments=moments)

    def _updated_control(
        self, control_state: LagrangianState | None, gates: Tree
    ) -> LagrangianState | None:
        if self.control is None or control_state is None:
            return None
        if self.in_dims is None:
            return self.control.update(control_state, gates)
        return torch.vmap(self.control.update)(control_state, gates)


def _check_optimizer(name: str, given: Any, in_dims: Any) -> None:
    if not isinstance(given, Optimizer):
        raise TypeError(
            f"The optimizer of {name} comes from l0func.optimizer, such as "
            f"l0func.optimizer(torch.optim.Adam, lr=1e-3); got {given!r}."
        )
    if in_dims is not None and not given.by_entry:
        raise ValueError(
            f"The optimizer of {name} remembers sums over several entries, so members of a stack "
            "would move each other. Use one that works entry by entry, such as torch.optim.Adam, "
            "or train the members apart."
        )


def _check_no_decay(gates: Optimizer) -> None:
    if gates.decays:
        raise ValueError(
            "Weight decay pulls gates to log_alpha = 0, half open. Give gates an optimizer with "
            "weight_decay=0, and let l0func.penalty(weight_decay=...) decay the weights behind "
            "them."
        )


def _check_control(control: Any) -> None:
    if control is not None and not isinstance(control, Lagrangian):
        raise TypeError(f"control comes from l0func.lagrangian; got {control!r}.")


def _check_average(average: float) -> None:
    if not 0.0 <= average < 1.0:
        raise ValueError(
            f"The average's decay is in [0, 1), and 0 keeps no average; got {average}."
        )


def _check_sweep(in_dims: Any, chunk_size: int | None) -> None:
    if in_dims is not None and not isinstance(in_dims, Sequence):
        raise TypeError(
            f"in_dims has an entry for each input, such as (0, 0, None); got {in_dims!r}."
        )
    if chunk_size is not None and (in_dims is None or operator.index(chunk_size) < 1):
        raise ValueError(
            f"chunk_size is a number of members of a sweep, at least 1, and goes with in_dims; "
            f"got {chunk_size} and in_dims {in_dims}. None computes all members at once."
        )


def _check_state(state: Any, control: Lagrangian | None, average: float) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"A step takes the state that init or a step returned; got {type(state).__name__}."
        )
    _check_both("averages", bool(state.averages), average > 0.0)
    _check_both("controller state", state.control is not None, control is not None)


def _check_both(name: str, has: bool, wants: bool) -> None:
    if has == wants:
        return
    there = name if has else f"no {name}"
    wanted = "keeps some" if wants else "has none"
    raise ValueError(
        f"The state has {there}, and this training {wanted}: it is another training's. Begin with "
        "this one's init, or build it with the same control and average."
    )


def _copied(leaves: Tree) -> Any:
    return tree.map_tensors(lambda t: t.detach().clone(), leaves)


def _averaged(averages: Tree, moved: TrainState, decay: float, step: Tensor) -> Tree:
    """The averages with this step's params and gates."""
    if not averages:
        return averages
    steps = int(step) + 1
    weight = (1 - decay) / (1 - decay**steps)
    updated: dict[str, dict[str, Tensor]] = {}
    for name, before in averages.items():
        now = tree.leaves(getattr(moved, name))
        updated[name] = _interpolated(before, now, weight)
    return updated


def _interpolated(
    before: dict[str, Tensor], now: dict[str, Tensor], weight: float
) -> dict[str, Tensor]:
    return {path: t.lerp(now[path], weight) for path, t in before.items()}
