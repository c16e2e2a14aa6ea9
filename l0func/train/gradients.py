"""Gradients for one network or for a stack: mapped, compiled, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from l0func.internal import tree
from l0func.internal.mapped import flatten_mapped, join_chunks, split_chunks
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.train.objective import Objective

Dims = Sequence[int | None]


def gradients_of(
    objective: Objective, in_dims: Dims | None, chunk_size: int | None, compile: bool
) -> Callable[..., Any]:
    """Differentiate an objective.

    Args:
        objective: The scalar to differentiate.
        in_dims: For a stack: the member dimension in each input, or None for an input that all
            members share. None for one network.
        chunk_size: Number of members to compute at once; None is all.
        compile: Whether to compile the gradient with ``torch.compile``.

    Returns:
        ``gradients(trained, whole, buffers, key, control_state, *inputs)``, with the arguments of
        :meth:`Objective.total`. It returns the gradients for params and gates; and the loss, the
        new buffers and the metrics.
    """
    if in_dims is None and not compile:
        return partial(_by_autograd, objective)
    gradients: Any = torch.func.grad(objective.total, has_aux=True)
    # Trained leaves, all params, buffers, key and controller state come before the inputs.
    dims = (0, 0, 0, 0, 0, *(in_dims or ()))
    if in_dims is not None:
        gradients = torch.vmap(gradients, dims)
    if compile:
        gradients = untyped.compile(gradients, fullgraph=True)
    # Chunks are cut outside of the compiled function: with torch.vmap's own chunks the graph would
    # hold all of them, one after another.
    return gradients if chunk_size is None else partial(_in_chunks, gradients, dims, chunk_size)


def _by_autograd(objective: Objective, trained: tuple[Tree, Tree], *others: Any) -> Any:
    """``torch.func.grad(objective.total, has_aux=True)``, neither mapped nor compiled.

    torch.func.grad keeps everything that a second derivative would need: a small network's step
    takes twice as long with it.
    """
    with torch.enable_grad():
        named = tree.leaves(trained, "params and gates")
        taken = {path: t.detach().requires_grad_() for path, t in named.items()}
        leaves = tree.rebuild(trained, taken)
        total, aux = objective.total(leaves, *others)
        grads: Any = torch.autograd.grad(total, list(taken.values()), allow_unused=True)
    found = dict(zip(taken, grads, strict=True))
    for path, t in taken.items():
        if found[path] is None:
            found[path] = t.new_zeros(t.shape)
    detached = tree.map_tensors(lambda t: t.detach(), aux)
    return tree.rebuild(trained, found), detached


def _in_chunks(mapped: Callable[..., Any], dims: Dims, size: int, /, *arguments: Any) -> Any:
    """A mapped function over ``size`` members at a time."""
    flat = flatten_mapped(arguments, dims, "in_dims")
    results: list[Any] = []
    for chunk in split_chunks(flat.tensors, flat.dims, size):
        results.append(mapped(*flat.rebuilt(chunk)))
    return join_chunks(results)
