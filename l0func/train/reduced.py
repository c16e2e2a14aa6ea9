"""Gradients of a loss that several processes compute together, each on rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from l0func.internal import names, tree
from l0func.internal.mapped import flatten_mapped
from l0func.internal.tree import Pytree
from l0func.internal.watch import warn_user

Reduce: TypeAlias = Callable[[Pytree, int], Any]
"""``reduce(tree, rows)`` returns the tree, with the values of all processes in each tensor."""


class ReducedGradients:
    """The gradients of a loss, reduced over processes, and then those of a price.

    The price, a penalty and a controller's, is the same in every process: it counts once.

    Args:
        data: The gradients of the loss, as :func:`gradients_of` has them.
        price: The gradients of the price, without inputs; None if there is none.
        reduce: The function over the loss's gradients, its value and the changes of buffers.
        in_dims: For a stack: the member dimension in each input.
    """

    def __init__(
        self,
        data: Callable[..., Any],
        price: Callable[..., Any] | None,
        reduce: Reduce,
        in_dims: Sequence[int | None] | None,
    ) -> None:
        self.data = data
        self.price = price
        self.reduce = reduce
        self.in_dims = in_dims
        self._has_looked = False

    def __call__(
        self,
        trained: tuple[Pytree, Pytree],
        whole: Pytree,
        buffers: Pytree,
        key: Tensor,
        control_state: Any,
        *inputs: Any,
    ) -> Any:
        """The gradients for params and gates; and the loss, the new buffers and the metrics."""
        rows = number_of_rows(inputs, self.in_dims)
        if not self._has_looked:
            self._has_looked = True
            _warn_of_other_rows(inputs, self.in_dims, rows)
        shared = (trained, whole, buffers, key, control_state)
        grads, (value, updated, metrics) = self.data(*shared, *inputs)
        with torch.no_grad():
            given = (grads, value.detach(), _changes(buffers, updated))
            grads, value, changes = _checked_reduction(self.reduce(given, rows), given)
            updated = _changed_leaves(buffers, changes)
        if self.price is not None:
            more, _ = self.price(*shared)
            grads = _sums(grads, more)
        return grads, (value, updated, metrics)


def number_of_rows(inputs: Sequence[Any], in_dims: Sequence[int | None] | None) -> int:
    """The number of rows in a batch: dimension 0 of the first input that has dimensions.

    Args:
        inputs: The inputs of a step.
        in_dims: For a stack: the member dimension in each input, which is not one of rows.

    Raises:
        ValueError: No input has rows, or the tensors of the first that has differ in them.
    """
    for i, value in enumerate(inputs):
        member = None if in_dims is None else in_dims[i]
        shapes = _shapes_in(value, member)
        found = {shape[0] for shape in shapes if shape}
        if len(found) > 1:
            raise ValueError(
                "reduce weighs a process by its rows, dimension 0 of the first input; its tensors "
                f"have {sorted(found)} rows. Pass one tensor with the batch's rows first."
            )
        if found:
            return found.pop()
    raise ValueError(
        "reduce weighs a process by its rows, dimension 0 of the first input, and no input of "
        "this step has dimensions. Pass the batch to step(state, *inputs)."
    )


def _warn_of_other_rows(
    inputs: Sequence[Any], in_dims: Sequence[int | None] | None, rows: int
) -> None:
    """Warn where later inputs say that the first input's rows are not along dimension 0.

    Two of them agree on another number, or one has the size of the first's dimension 1, as in a
    batch with time first. A single tensor of another size may be weights of classes.
    """
    shapes: list[list[list[int]]] = []
    for i, value in enumerate(inputs):
        found = [s for s in _shapes_in(value, None if in_dims is None else in_dims[i]) if s]
        if found:
            shapes.append(found)
    later = [{shape[0] for shape in found} for found in shapes[1:]]
    sizes = [size for found in later for size in found]
    if rows in sizes:
        return
    widths = [shape[1] for shape in shapes[0] if len(shape) > 1]
    other = next((size for size in sizes if size in widths or sizes.count(size) > 1), None)
    if other is not None:
        warn_user(
            f"reduce weighs a process by its rows, here {rows}, dimension 0 of the first input, "
            f"and later inputs have {other} there. If those are the rows, pass an input with them "
            "first, such as the labels: processes with uneven rows would count alike."
        )


def _shapes_in(value: Any, member: Any) -> list[list[int]]:
    """The shapes of an input's tensors in one member."""
    flat = flatten_mapped(value, member, "in_dims")
    found = [list(x.shape) for x in flat.unmapped]
    for x, dim in flat.mapped():
        found.append([*x.shape[:dim], *x.shape[dim + 1 :]])
    return found


# A buffer that no process changes keeps its bits: what is reduced is its change, exactly 0.


def _changes(before: Pytree, after: Pytree) -> dict[str, Tensor]:
    old, new = tree.leaves(before, "buffers"), tree.leaves(after, "buffers")
    return {path: _change(old[path], new[path]) for path in old}


def _change(old: Tensor, new: Tensor) -> Tensor:
    if old.dtype == torch.bool:
        return old ^ new.bool()
    # Equal infinities have the difference NaN.
    return torch.where(new == old, torch.zeros_like(old), (new - old).to(old.dtype))


def _changed_leaves(before: Pytree, changes: dict[str, Tensor]) -> Pytree:
    old = tree.leaves(before, "buffers")
    new: dict[str, Tensor] = {}
    for path, b in old.items():
        new[path] = b ^ changes[path] if b.dtype == torch.bool else b + changes[path]
    return tree.rebuild(before, new)


def _sums(grads: Pytree, more: Pytree) -> Pytree:
    others = tree.leaves(more, "gradients")
    found = {path: g + others[path] for path, g in tree.leaves(grads, "gradients").items()}
    return tree.rebuild(grads, found)


def _checked_reduction(result: Any, given: Pytree) -> Any:
    """What ``reduce`` returned, in the structure of what it was given.

    Raises:
        TypeError: It is no pytree of tensors.
        ValueError: It has other tensors, or other shapes.
    """
    known, got = tree.leaves(given, "gradients"), tree.leaves(result, "the tree from reduce")
    returned = "the tree that reduce returned"
    names.check_names(got, known, returned, "the tree that it was given")
    for path, t in got.items():
        if t.shape != known[path].shape or t.dtype != known[path].dtype:
            raise ValueError(
                "reduce keeps shapes and dtypes; it returned "
                f"{tuple(t.shape)} of {t.dtype} for {tuple(known[path].shape)} of "
                f"{known[path].dtype} at {path!r}."
            )
    return tree.rebuild(given, got)
