"""The scalar that training minimises: loss, penalty and the controller's penalty, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.context import compiling
from l0func.internal.shards import whole_of
from l0func.internal.tree import Pytree
from l0func.internal.watch import CallWatch, listed_names, warn_user, watching
from l0func.train.lagrangian import Lagrangian
from l0func.train.reached import reaches_gates
from l0func.train.trainable import check_not_frozen

Loss: TypeAlias = Callable[..., Tensor | tuple[Tensor, Any] | tuple[Tensor, Any, Any]]
"""``loss(params, gates, buffers, key, *inputs)``: a scalar, or a tuple that begins with it."""

Price: TypeAlias = Callable[[Pytree, Pytree], Tensor]
"""``penalty(params, gates)``: a scalar that is added to the loss."""


class LossResult(NamedTuple):
    """What a loss returned."""

    value: Tensor
    buffers: Pytree
    metrics: Pytree
    """Tensors that are no part of the objective; an empty tuple without ``has_aux``."""

    returned_buffers: bool


@dataclass(frozen=True)
class Objective:
    """The scalar that training differentiates in params and gates."""

    loss: Loss
    control: Lagrangian | None
    penalty: Price | None = None
    has_aux: bool = False
    frozen_may_move: bool = True
    """Whether the user chose the parameters that move, so that a frozen one may be among them."""

    sweep: bool = False
    """Whether members of a stack are trained together."""

    told: list[str] = field(default_factory=list[str])
    """Buffers that a warning has named; it comes once."""

    reaches: list[bool | None] = field(default_factory=list[bool | None])
    """Whether the first loss reached a gate, None if its graph does not tell; empty before."""

    def total(
        self,
        trained: tuple[Pytree, Pytree],
        whole: Pytree,
        buffers: Pytree,
        key: Tensor,
        control_state: Any,
        *inputs: Any,
    ) -> tuple[Tensor, tuple[Tensor, Pytree, Pytree]]:
        """The objective, and beside it the loss, the new buffers and the metrics.

        Args:
            trained: Params that move, and gates.
            whole: All params, for those that do not move; an empty tuple if all move.
            buffers: The buffers.
            key: The key for this step.
            control_state: The controller's state; any value without a controller.
            *inputs: The inputs from the step's call.
        """
        value, aux = self.data(trained, whole, buffers, key, control_state, *inputs)
        total = value
        if self.has_price:
            price, _ = self.price(trained, whole, buffers, key, control_state)
            total = value + price
        _check_depends(total, trained)
        return total, aux

    @property
    def has_price(self) -> bool:
        """Whether a penalty or a controller adds to the loss."""
        return self.penalty is not None or self.control is not None

    def data(
        self,
        trained: tuple[Pytree, Pytree],
        whole: Pytree,
        buffers: Pytree,
        key: Tensor,
        control_state: Any,
        *inputs: Any,
    ) -> tuple[Tensor, tuple[Tensor, Pytree, Pytree]]:
        """The loss alone, with the arguments and results of :meth:`total`."""
        moving, gates = trained
        params = _with_moving(whole, moving) if whole else moving
        taken = (list(tree.leaves(moving).values()), list(tree.leaves(gates, "gates").values()))
        # A loss may write into its dicts. So it gets new dicts, and the state's stay as they are.
        own_buffers = tree.map_tensors(lambda t: t, buffers)
        result = self._called(buffers, params, gates, own_buffers, key, *inputs)
        check_scalar("A loss", result.value, self.sweep)
        _check_new_buffers(result.buffers, buffers, self.has_aux)
        # A loss of DTensors is a sum over processes that is still to be taken.
        value = whole_of(result.value)
        if not self.reaches and not compiling():
            self.reaches.append(reaches_gates(value, *taken))
        return value, (value, result.buffers, result.metrics)

    def price(
        self,
        trained: tuple[Pytree, Pytree],
        whole: Pytree,
        buffers: Pytree,
        key: Tensor,
        control_state: Any,
    ) -> tuple[Tensor, tuple[()]]:
        """The penalty and the controller's, of which there is one, and nothing beside them.

        It takes the arguments of :meth:`total`, without inputs.
        """
        moving, gates = trained
        found: list[Tensor] = []
        if self.penalty is not None:
            params = _with_moving(whole, moving) if whole else moving
            penalty: Any = self.penalty(params, gates)
            check_scalar("A penalty", penalty, self.sweep)
            found.append(whole_of(penalty))
        if self.control is not None:
            found.append(self.control.penalty(control_state, gates))
        return sum(found[1:], found[0]), ()

    def _called(self, buffers: Pytree, params: Pytree, *others: Any) -> LossResult:
        """What the loss returns; frozen parameters and lost buffers are noticed."""
        if compiling():
            return _result(self.loss(params, *others), buffers, self.has_aux)
        with watching() as watch:
            result = _result(self.loss(params, *others), buffers, self.has_aux)
        if not self.frozen_may_move:
            check_not_frozen(tree.leaves(params), watch.frozen)
        if not result.returned_buffers:
            self._tell_lost_buffers(watch)
        return result

    def _tell_lost_buffers(self, watch: CallWatch) -> None:
        if self.told or not watch.changed:
            return
        self.told.extend(watch.changed)
        warn_user(
            f"The loss changed the buffers {listed_names(self.told)} by with_buffers and returned "
            "no buffers, so the state keeps the old ones. Return (loss, new buffers); or (loss, "
            "buffers), with those that it was given, to keep the old ones on purpose."
        )


def _with_moving(whole: Pytree, moving: Pytree) -> Pytree:
    """All params, with those that move replaced."""
    named = tree.leaves(whole)
    return tree.rebuild(whole, named | tree.leaves(moving))


def _result(returned: Any, buffers: Pytree, has_aux: bool) -> LossResult:
    parts: tuple[Any, ...] = (returned,)
    if isinstance(returned, tuple):
        parts = cast("tuple[Any, ...]", returned)
    count = len(parts) - has_aux
    if count not in (1, 2) or not isinstance(parts[0], Tensor):
        metrics = ", metrics" if has_aux else ""
        raise TypeError(
            f"A loss returns (scalar{metrics}) or (scalar, new buffers{metrics}), the scalar a "
            f"tensor; got {_returned_kind(returned)}. Metrics go with has_aux=True."
        )
    new = parts[1] if count == 2 else buffers
    metrics = _as_metrics(parts[-1]) if has_aux else ()
    return LossResult(parts[0], new, metrics, returned_buffers=count == 2)


def _returned_kind(value: Any) -> str:
    if isinstance(value, tuple):
        kinds = [type(part).__name__ for part in cast("tuple[Any, ...]", value)]
        return f"tuple ({', '.join(kinds)})"
    return type(value).__name__


def _as_metrics(value: Any) -> Pytree:
    """Metrics as tensors, so that a sweep can stack them."""
    metrics: dict[str, Tensor] = {}
    for path, leaf in tree.walk(value):
        if not isinstance(leaf, (Tensor, bool, int, float)):
            raise TypeError(f"Metrics are tensors and numbers; {path!r} is {type(leaf).__name__}.")
        metric = torch.as_tensor(leaf)
        metrics[path] = metric if metric.dim() else whole_of(metric)
    return tree.rebuild(value, metrics)


def _check_depends(total: Tensor, trained: tuple[Pytree, Pytree]) -> None:
    """Refuse an objective that no trained tensor reaches.

    Raises:
        ValueError: It has no gradient.
    """
    is_known = torch.is_grad_enabled() and not compiling()
    if is_known and not total.requires_grad and tree.leaves(trained, "params and gates"):
        raise ValueError(
            "The loss does not depend on the params and gates that it was given, so nothing can "
            "learn. Compute it from these arguments, without .detach(), .item(), torch.no_grad() "
            "or the module itself."
        )


def is_pair(value: Any) -> bool:
    """Whether a value is a tuple of two."""
    return isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == 2


def check_scalar(name: str, value: Any, sweep: bool = False) -> None:
    """Refuse anything but one real number.

    Args:
        name: A name for the value in an error.
        value: The value.
        sweep: Whether it is a member's of a sweep.

    Raises:
        TypeError: The value is no tensor.
        ValueError: It has dimensions, or another dtype.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a scalar tensor; got {type(value).__name__}.")
    if value.dim() or not value.is_floating_point():
        members = (
            " An input with a value for each member, such as λ, has its dimension in in_dims, as "
            "0, and the loss gets one."
        )
        raise ValueError(
            f"{name} is one real number; got {value.dtype} of shape {tuple(value.shape)}. Average "
            f"over the batch.{members if sweep and value.dim() else ''}"
        )


def _check_new_buffers(updated: Pytree, buffers: Pytree, has_aux: bool) -> None:
    known = tree.leaves(buffers, "buffers")
    advice = (
        "With has_aux=True a loss returns (scalar, metrics) or (scalar, new buffers, metrics), in "
        "this order."
        if has_aux
        else "A second value is the new buffers; metrics go with has_aux=True."
    )
    try:
        named = tree.leaves(updated, "the new buffers")
        returned = "the buffers that the loss returned"
        names.check_names(named, known, returned, "the state's buffers")
    except TypeError as error:
        raise TypeError(f"{error} {advice}") from None
    except ValueError as error:
        raise ValueError(f"{error} {advice}") from None
    for path, t in named.items():
        shape = tuple(known[path].shape)
        if t.shape != shape:
            raise ValueError(
                f"A buffer keeps its shape; the loss returned {path!r} of shape {tuple(t.shape)} "
                f"for {shape}."
            )
