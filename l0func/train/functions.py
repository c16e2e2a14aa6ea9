"""The types of the two functions of a training."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from l0func.internal.generic_tuples import Generic, NamedTuple, TypeVar
from l0func.train.state import BuffersT, GatesT, ParamsT, StateT, TrainState


class Init(Protocol):
    """How a training begins."""

    def __call__(
        self, key: Tensor, params: ParamsT, gates: GatesT, buffers: BuffersT, /
    ) -> TrainState[ParamsT, GatesT, BuffersT]:
        """The state to start from."""
        ...


class Step(Protocol):
    """How a training goes on."""

    def __call__(self, state: StateT, /, *inputs: Any) -> tuple[StateT, Tensor]:
        """The next state, and the loss before the step."""
        ...


class StepWithMetrics(Protocol):
    """How a training goes on whose loss returns metrics."""

    def __call__(self, state: StateT, /, *inputs: Any) -> tuple[StateT, Tensor, Any]:
        """The next state, the loss before the step, and its metrics, a pytree of tensors."""
        ...


StepT = TypeVar("StepT", bound=Step | StepWithMetrics, default=Step)


class Training(NamedTuple, Generic[StepT]):
    """Training as two pure functions; :func:`training` makes them.

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
        >>> value.shape, state.step
        (torch.Size([]), tensor(1))
    """

    init: Init
    """``init(key, params, gates, buffers)``: the state to start from."""

    step: StepT
    """``step(state, *inputs)``: the next state and the loss before the step; with ``has_aux`` the
    loss's metrics too.
    """
