"""The state of training: everything that a step reads and replaces, as one pytree."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor

from l0func import random
from l0func.internal.generic_tuples import Generic, NamedTuple, TypeVar
from l0func.internal.tree import Tree
from l0func.train.lagrangian import LagrangianState
from l0func.train.optimizer import Moments

ParamsT = TypeVar("ParamsT", bound=Tree, default=dict[str, Tensor])
GatesT = TypeVar("GatesT", bound=Tree, default=dict[str, Tensor])
BuffersT = TypeVar("BuffersT", bound=Tree, default=dict[str, Tensor])


class TrainState(NamedTuple, Generic[ParamsT, GatesT, BuffersT]):
    """A training state, or many as a stack.

    All leaves are tensors, so one function each stacks, saves and loads whole states.

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
        >>> state, _ = step(state, torch.ones(4, 3))
        >>> state.step
        tensor(1)
        >>> sorted(state.params), sorted(state.gates)
        (['bias', 'weight'], ['bias', 'weight'])
    """

    step: Tensor
    """Number of steps so far, an int64 scalar; all members in a stack share it."""

    key: Tensor
    """The key behind all draws, shape ``(2,)``: step t draws from ``fold_in(key, t)``."""

    params: ParamsT
    gates: GatesT
    buffers: BuffersT
    moments: dict[str, Moments]
    """The optimizers' moments, under ``"params"`` and ``"gates"``.

    For each leaf they are a dict of tensors, or None where nobody knows yet what its optimizer
    will remember."""

    averages: dict[str, dict[str, Tensor]]
    """Averages of params and gates; empty if the training keeps none."""

    control: LagrangianState | None
    """The controller's state; None without a controller."""

    def key_of(self, step: int | Tensor) -> Tensor:
        """The key that a step gives to the loss, to repeat its draws.

        Args:
            step: The number of the step, from 0 on; ``state.step`` is that of the next step.

        Returns:
            ``fold_in(key, step)``, shape ``(2,)``; ``(members, 2)`` for a stack.
        """
        return random.fold_in(self.key, step)


AnyState: TypeAlias = TrainState[Any, Any, Any]
"""A state, whatever the structure of its trees."""

StateT = TypeVar("StateT", bound=AnyState)
