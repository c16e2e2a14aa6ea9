"""The scalar that training minimises: the user's loss, checked, plus the controller's penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.train.lagrangian import Lagrangian


@dataclass(frozen=True)
class Objective:
    """The scalar that training differentiates in params and gates."""

    loss: Callable[..., Any]
    control: Lagrangian | None

    def total(
        self,
        trained: tuple[Tree, Tree],
        buffers: Tree,
        key: Tensor,
        control_state: Any,
        *inputs: Any,
    ) -> tuple[Tensor, tuple[Tensor, Tree]]:
        """The objective, and beside it the loss and the new buffers.

        Args:
            trained: Params and gates.
            buffers: The buffers.
            key: The key for this step.
            control_state: The controller's state; any value without a controller.
            *inputs: The inputs from the step's call.
        """
        # A loss may write into its dicts. So it gets new dicts, and the state's stay as they are.
        own_buffers = tree.map_tensors(lambda t: t, buffers)
        result: Any = self.loss(*trained, own_buffers, key, *inputs)
        value, updated = _value_and_buffers(result, buffers)
        _check_value(value)
        _check_new_buffers(updated, buffers)
        if self.control is None:
            return value, (value, updated)
        penalty = self.control.penalty(control_state, trained[1])
        return value + penalty, (value, updated)


def _value_and_buffers(result: Any, buffers: Tree) -> tuple[Tensor, Tree]:
    pair: Any = (result, buffers) if isinstance(result, Tensor) else result
    if not (_is_pair(pair) and isinstance(pair[0], Tensor)):
        raise TypeError(
            f"A loss returns a scalar tensor, or (scalar, new buffers); got "
            f"{type(result).__name__}."
        )
    return pair


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == 2


def _check_value(value: Tensor) -> None:
    if value.dim() or not value.is_floating_point():
        raise ValueError(
            f"A loss is one real number; got {value.dtype} of shape {tuple(value.shape)}. Average "
            "over the batch."
        )


def _check_new_buffers(updated: Tree, buffers: Tree) -> None:
    named = tree.leaves(updated, "the new buffers")
    known = tree.leaves(buffers, "buffers")
    names.check_names(named, known, "The state, compared with the buffers that the loss returned,")
    for path, t in named.items():
        shape = tuple(known[path].shape)
        if t.shape != shape:
            raise ValueError(
                f"A buffer keeps its shape; the loss returned {path!r} of shape {tuple(t.shape)} "
                f"for {shape}."
            )
