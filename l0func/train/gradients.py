"""Gradients for one network or for a stack: mapped, compiled, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.internal.mapped import flatten_mapped, join_chunks, split_chunks
from l0func.internal.shards import laid_as
from l0func.internal.tree import Pytree
from l0func.internal.untyped import untyped
from l0func.train.objective import Objective
from l0func.train.reduced import Reduce, ReducedGradients

Dims = Sequence[int | None]


def gradients_of(
    objective: Objective,
    in_dims: Dims | None,
    chunk_size: int | None,
    compile: bool,
    reduce: Reduce | None,
) -> Callable[..., Any]:
    """Differentiate an objective.

    Args:
        objective: The scalar to differentiate.
        in_dims: For a stack: the member dimension in each input, or None for an input that all
            members share. None for one network.
        chunk_size: Number of members to compute at once; None is all.
        compile: Whether to compile the gradient with ``torch.compile``.
        reduce: A function over the loss's gradients, its value and the changes of buffers; None
            for none.

    Returns:
        ``gradients(trained, whole, buffers, key, control_state, *inputs)``, with the arguments of
        :meth:`Objective.total`. It returns the gradients for params and gates; and the loss, the
        new buffers and the metrics.
    """
    settings = (not objective.frozen_may_move, in_dims, chunk_size, compile)
    if reduce is None:
        return _gradients(objective.total, *settings)
    data = _gradients(objective.data, *settings)
    if not objective.has_price:
        return ReducedGradients(data, None, reduce, in_dims)
    # The price depends on no input.
    no_dims = None if in_dims is None else ()
    price = _gradients(objective.price, False, no_dims, chunk_size, compile)
    return ReducedGradients(data, price, reduce, in_dims)


def _gradients(
    function: Callable[..., Any],
    tries: bool,
    in_dims: Dims | None,
    chunk_size: int | None,
    compile: bool,
) -> Callable[..., Any]:
    """Differentiate one function in its first argument; it returns a scalar and an aux.

    Args:
        function: The function, with the arguments of :meth:`Objective.total`.
        tries: Whether a compiled function runs once eagerly before.
        in_dims: As for :func:`gradients_of`, like the others.
        chunk_size: Number of members to compute at once.
        compile: Whether to compile.
    """
    if in_dims is None and not compile:
        return partial(_by_autograd, function)
    gradients: Any = torch.func.grad(function, has_aux=True)
    # Trained leaves, all params, buffers, key and controller state come before the inputs.
    dims = (0, 0, 0, 0, 0, *(in_dims or ()))
    mapped = None if in_dims is None else dims
    if mapped is not None:
        gradients = torch.vmap(gradients, mapped)
    if compile:
        compiled = untyped.compile(gradients, fullgraph=True)
        gradients = _Tried(compiled, function, mapped) if tries else compiled
    # Chunks are cut outside of the compiled function: with torch.vmap's own chunks the graph would
    # hold all of them, one after another.
    return gradients if chunk_size is None else partial(_in_chunks, gradients, dims, chunk_size)


class _Tried:
    """A compiled gradient after one eager trial, because compiled code notices no frozen leaf."""

    def __init__(
        self,
        compiled: Callable[..., Any],
        function: Callable[..., Any],
        dims: tuple[Any, ...] | None,
    ) -> None:
        self.compiled = compiled
        self.function = function
        self.dims = dims
        self.tried = False

    def __call__(self, *arguments: Any) -> Any:
        if not self.tried:
            mapped = self.function if self.dims is None else torch.vmap(self.function, self.dims)
            with torch.no_grad():
                mapped(*arguments)
            self.tried = True
        return self.compiled(*arguments)


def _by_autograd(
    function: Callable[..., Any], trained: tuple[Pytree, Pytree], *others: Any
) -> Any:
    """``torch.func.grad(function, has_aux=True)``, neither mapped nor compiled.

    torch.func.grad keeps everything that a second derivative would need: a small network's step
    takes twice as long with it.
    """
    with torch.enable_grad():
        named = tree.leaves(trained, "params and gates")
        taken = {path: t.detach().requires_grad_() for path, t in named.items()}
        leaves = tree.rebuild(trained, taken)
        total, aux = function(leaves, *others)
        grads: Any = [None] * len(taken)
        if total.requires_grad:
            grads = torch.autograd.grad(total, list(taken.values()), allow_unused=True)
    found: dict[str, Tensor] = {}
    for (path, t), grad in zip(taken.items(), grads, strict=True):
        found[path] = torch.zeros_like(t) if grad is None else laid_as(grad, t)
    detached = tree.map_tensors(lambda t: t.detach(), aux)
    return tree.rebuild(trained, found), detached


def _in_chunks(mapped: Callable[..., Any], dims: Dims, size: int, /, *arguments: Any) -> Any:
    """A mapped function over ``size`` members at a time."""
    flat = flatten_mapped(arguments, dims, "in_dims")
    results: list[Any] = []
    for chunk in split_chunks(flat.tensors, flat.dims, size):
        results.append(mapped(*flat.rebuilt(chunk)))
    return join_chunks(results)
