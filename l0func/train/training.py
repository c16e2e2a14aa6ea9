"""Training as a pure function: state and batch in, state and loss out.

One function serves a single network and a sweep over stacked networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from l0func import random
from l0func.gates.checks import check_can_learn
from l0func.internal import tree
from l0func.internal.sharding import check_entries
from l0func.internal.tree import Pytree
from l0func.train.arguments import (
    check_average,
    check_control,
    check_functions,
    check_optimizers,
    check_state,
    check_sweep,
    renamed,
)
from l0func.train.clipping import Clip, clipped_gradients
from l0func.train.donated import check_not_used_up
from l0func.train.functions import StepWithMetrics, Training
from l0func.train.gradients import gradients_of
from l0func.train.lagrangian import Lagrangian, LagrangianState
from l0func.train.objective import Loss, Objective, Price
from l0func.train.optimizer import Moments, Optimizer
from l0func.train.reached import check_gates_can_learn
from l0func.train.reduced import Reduce
from l0func.train.stacks import check_members
from l0func.train.state import AnyState, TrainState
from l0func.train.trainable import Patterns, Trainable, moving, patterns_of


@overload
def training(
    loss: Loss,
    weights_optimizer: Optimizer | None = None,
    gates_optimizer: Optimizer | None = None,
    *,
    penalty: Price | None = None,
    has_aux: Literal[False] = False,
    trainable: Trainable = ...,
    clip: Clip | None = None,
    reduce: Reduce | None = None,
    control: Lagrangian | None = None,
    average: float = 0.0,
    in_dims: Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
    donate: bool = False,
    params: Optimizer | None = None,
    gates: Optimizer | None = None,
) -> Training: ...


@overload
def training(
    loss: Loss,
    weights_optimizer: Optimizer | None = None,
    gates_optimizer: Optimizer | None = None,
    *,
    penalty: Price | None = None,
    has_aux: Literal[True],
    trainable: Trainable = ...,
    clip: Clip | None = None,
    reduce: Reduce | None = None,
    control: Lagrangian | None = None,
    average: float = 0.0,
    in_dims: Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
    donate: bool = False,
    params: Optimizer | None = None,
    gates: Optimizer | None = None,
) -> Training[StepWithMetrics]: ...


def training(
    loss: Loss,
    weights_optimizer: Optimizer | None = None,
    gates_optimizer: Optimizer | None = None,
    *,
    penalty: Price | None = None,
    has_aux: bool = False,
    trainable: Trainable = ...,
    clip: Clip | None = None,
    reduce: Reduce | None = None,
    control: Lagrangian | None = None,
    average: float = 0.0,
    in_dims: Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    compile: bool = False,
    donate: bool = False,
    params: Optimizer | None = None,
    gates: Optimizer | None = None,
) -> Training[Any]:
    r"""A training step as a pure function.

    For a module with frozen parameters pass ``trainable=fn.trainable``; for one with BatchNorm let
    the loss call ``with_buffers`` and return the new buffers::

        def loss(params, gates, buffers, key, x, y):
            outputs, new = apply.with_buffers(params, gates, buffers, key, x)
            return cross_entropy(outputs, y), new

        init, step = l0func.training(loss, adam, fast_adam, trainable=fn.trainable)

    Averages are exponential, over the states after each step: after t steps the state after step i
    weighs :math:`\beta^{t-i}(1-\beta)/(1-\beta^t)`.

    Args:
        loss: ``loss(params, gates, buffers, key, *inputs)`` returns a scalar, or a scalar and new
            buffers. Values that change from step to step (a batch, λ) are inputs; pass numbers as
            tensors.
        weights_optimizer: The optimizer for the parameters.
        gates_optimizer: The optimizer for the gates, without weight decay, and with a larger
            learning rate.
        penalty: ``penalty(params, gates)`` returns a scalar that is added to the loss: the loss
            that a step returns is then without it. A price that changes from step to step is an
            input, and goes into the loss.
        has_aux: Whether the loss returns metrics too, a pytree with tensors or numbers:
            ``(scalar, metrics)`` or ``(scalar, new buffers, metrics)``. A step then returns
            ``(state, loss, metrics)``.
        trainable: The parameters that move: patterns or paths, such as ``fn.trainable``; None
            moves all. The others stay as they are: they get no gradient, no moments and no decay.
            If left out all move, and a step refuses to move a parameter that its module had
            frozen.
        clip: ``clip(weights' gradients, gates' gradients)`` returns both, changed; see
            :func:`l0func.clip_norm`. In a sweep it is mapped over the members.
        reduce: For a group of processes with a part of the batch each, such as
            :func:`l0func.all_reduce_mean`. ``reduce(tree, rows)`` returns the tree, reduced over
            the processes: the loss's gradients, its value and the changes of buffers, before the
            gradients of penalty and controller are added, and before ``clip``. ``rows`` is the
            size of dimension 0 of the first input with dimensions. Metrics stay those of the
            process.
        control: A controller. The step adds its penalty and updates its state.
        average: :math:`\beta` for averages over params and gates, in [0, 1); 0 keeps none.
        in_dims: For a sweep: the member dimension in each input, None for an input that all
            members share. The state is then a stack, see :func:`stack`.
        chunk_size: Number of members to compute at once in a sweep; None is all. Memory falls
            with it. A convolution over mapped weights is a grouped convolution, and a CPU may
            compute it more slowly than one member after another.
        compile: Whether to compile the gradient with ``torch.compile``.
        donate: Whether a step may write into its state. The given state is then used up, and a
            second step from it is refused.
        params: The former name of ``weights_optimizer``.
        gates: The former name of ``gates_optimizer``.

    Returns:
        ``init(key, params, gates, buffers)`` and ``step(state, *inputs)``.

    Raises:
        TypeError: An optimizer is not from :func:`l0func.optimizer`, or ``control`` not a
            controller; an argument has another type; in a step, the loss returned neither a scalar
            nor a scalar and buffers.
        ValueError: The gates' optimizer has weight decay; an optimizer in a sweep couples
            entries; ``average`` is outside [0, 1); ``chunk_size`` is not positive, or there is no
            sweep; a pattern of ``trainable`` matches no parameter; in a step, the state is another
            training's or used up, or the loss returned other buffers than it was given, or reaches
            no gate although their optimizer moves gates, or a frozen parameter would move.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params)
        >>> gates = l0.init_gates(l0.random.key(0), spec)
        >>> apply = l0.gated(fn, spec)
        >>> def loss(params, gates, buffers, key, x):
        ...     return apply(params, gates, buffers, key, x).square().mean()
        >>> sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
        >>> init, step = l0.training(loss, sgd, sgd)
        >>> state = init(l0.random.key(1), params, gates, buffers)
        >>> state, value = step(state, torch.ones(4, 3))
        >>> state.step
        tensor(1)
    """
    weights = renamed("weights_optimizer", weights_optimizer, "params", params)
    locations = renamed("gates_optimizer", gates_optimizer, "gates", gates)
    check_optimizers(weights, locations, in_dims)
    check_functions(loss, penalty, clip, reduce)
    check_control(control)
    check_average(average)
    check_sweep(in_dims, chunk_size)
    patterns = patterns_of(trainable)
    objective = Objective(
        loss,
        control,
        penalty,
        has_aux,
        frozen_may_move=trainable is not ...,
        sweep=in_dims is not None,
    )
    gradients = gradients_of(objective, in_dims, chunk_size, compile, reduce)
    functions = _TrainingFunctions(
        weights_optimizer=weights,
        gates_optimizer=locations,
        gradients=gradients,
        reaches=objective.reaches,
        patterns=patterns,
        clip=clip,
        has_aux=has_aux,
        control=control,
        average=average,
        in_dims=in_dims,
        donate=donate,
    )
    return Training(functions.init, functions.step)


@dataclass(frozen=True)
class _TrainingFunctions:
    """The functions in a :class:`Training` and their settings."""

    weights_optimizer: Optimizer
    gates_optimizer: Optimizer
    gradients: Callable[..., Any]
    reaches: list[bool | None]
    """Whether the first loss reached a gate."""

    patterns: Patterns
    clip: Clip | None
    has_aux: bool
    control: Lagrangian | None
    average: float
    in_dims: Sequence[int | None] | None
    donate: bool

    def init(self, key: Tensor, params: Pytree, gates: Pytree, buffers: Pytree, /) -> AnyState:
        random.check_key(key)
        for label, given in (("params", params), ("gates", gates), ("buffers", buffers)):
            check_entries(tree.leaves(given, label))
        check_can_learn(tree.leaves(gates, "gates"))
        control = None if self.control is None else self.control.init(gates)
        step = torch.zeros((), dtype=torch.int64, device=key.device)
        moments: dict[str, Moments] = {}
        moments["params"] = self.weights_optimizer.init(moving(params, self.patterns))
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

    def _first_averages(self, params: Pytree, gates: Pytree) -> dict[str, dict[str, Tensor]]:
        named = {"params": tree.leaves(params), "gates": tree.leaves(gates, "gates")}
        return {} if self.average == 0.0 else _copied(named)

    def step(self, state: AnyState, /, *inputs: Any) -> Any:
        check_state(state, self.control, self.average)
        if self.in_dims is not None:
            check_members(state, inputs, self.in_dims)
        key = state.key_of(state.step)
        trained = (moving(state.params, self.patterns), state.gates)
        if self.donate:
            check_not_used_up(tree.leaves(trained, "params and gates").values())
        # vmap does not take None as a pytree without leaves; an empty tuple is one.
        whole: Any = () if self.patterns is None else state.params
        control_state: Any = () if state.control is None else state.control
        grads, (value, buffers, metrics) = self.gradients(
            trained, whole, state.buffers, key, control_state, *inputs
        )
        if False in self.reaches:
            update, moments = self.gates_optimizer.update, state.moments["gates"]
            check_gates_can_learn(update, state.gates, moments, state.step)
        moved = self._moved(state, trained[0], *self._clipped(*grads))
        averages = _averaged(state.averages, moved, self.average, state.step)
        control = self._updated_control(state.control, moved.gates)
        following = moved._replace(
            step=state.step + 1, buffers=buffers, averages=averages, control=control
        )
        if self.has_aux:
            return following, value.detach(), tree.map_tensors(lambda t: t.detach(), metrics)
        return following, value.detach()

    @torch.no_grad()
    def _clipped(self, params_grads: Pytree, gates_grads: Pytree) -> tuple[Pytree, Pytree]:
        if self.clip is None:
            return params_grads, gates_grads
        clip = partial(clipped_gradients, self.clip)
        mapped: Any = clip if self.in_dims is None else torch.vmap(clip)
        return mapped(params_grads, gates_grads)

    def _moved(
        self, state: AnyState, trained: Pytree, params_grads: Pytree, gates_grads: Pytree
    ) -> AnyState:
        """The state after both optimizers: new params, gates and moments."""
        before, step = state.moments, state.step
        moments: dict[str, Moments] = {}
        params, moments["params"] = self.weights_optimizer.update(
            params_grads, before["params"], trained, step, donate=self.donate
        )
        if self.patterns is not None:
            params = tree.rebuild(state.params, tree.leaves(state.params) | params)
        gates, moments["gates"] = self.gates_optimizer.update(
            gates_grads, before["gates"], state.gates, step, donate=self.donate
        )
        gates = self._held(state.control, gates)
        return state._replace(params=params, gates=gates, moments=moments)

    def _held(self, control_state: LagrangianState | None, gates: Pytree) -> Pytree:
        """The gates, raised by the controller where too few are open."""
        if self.control is None or control_state is None:
            return gates
        is_low, hold = self.control.is_low, self.control.hold
        if self.in_dims is not None:
            is_low, hold = torch.vmap(is_low), torch.vmap(hold)
        return hold(control_state, gates) if bool(is_low(control_state, gates).any()) else gates

    def _updated_control(
        self, control_state: LagrangianState | None, gates: Pytree
    ) -> LagrangianState | None:
        if self.control is None or control_state is None:
            return None
        if self.in_dims is None:
            return self.control.update(control_state, gates)
        return torch.vmap(self.control.update)(control_state, gates)


def _copied(leaves: Pytree) -> Any:
    return tree.map_tensors(lambda t: t.detach().clone(), leaves)


def _averaged(averages: Pytree, moved: AnyState, decay: float, step: Tensor) -> Pytree:
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
