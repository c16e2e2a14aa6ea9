"""A step out of the vmap around some code: a function of whole batches in place of single rows.

torch asks a custom autograd function's vmap rule through a long chain of Python code. For a small
batch that chain takes longer than the draws themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from l0func.internal.context import compiling, innermost_is_vmap
from l0func.internal.untyped import untyped

BatchFunction = Callable[..., Sequence[Tensor]]
MappedDims = Sequence[int | None]
"""For each tensor its mapped dimension, or None."""
MapRule = Callable[..., Sequence[Tensor]]


def below_vmap(function: BatchFunction, /, *tensors: Tensor) -> Sequence[Tensor]:
    """``function(*tensors)``, called with whole batches where a vmap around this code has rows.

    Args:
        function: A function that takes more dimensions in front of each tensor as a batch, and
            computes the same for a batch as for each of its rows. Tensors that broadcast with each
            other have rows of one rank.
        *tensors: Its arguments.

    Returns:
        Its results, as rows again.
    """

    def rule(size: int, dims: MappedDims, *batches: Any) -> Sequence[Tensor]:
        pairs = zip(batches, dims, strict=True)
        return below_vmap(function, *[_batch_in_front(x, dim) for x, dim in pairs])

    return by_rule(function, rule, *tensors)


def by_rule(function: BatchFunction, rule: MapRule, /, *tensors: Any) -> Sequence[Tensor]:
    """``function(*tensors)``, by a rule where a vmap around this code maps some of the tensors.

    Args:
        function: A function of tensors and of None.
        rule: ``(batch size, dims, *tensors)`` to results with the batch in front, as the vmap rule
            of an autograd function. It runs outside of that vmap.
        *tensors: The arguments.

    Returns:
        The results, as rows again.
    """
    if compiling() or not innermost_is_vmap():
        return function(*tensors)
    functorch: Any = untyped._C._functorch
    level: int = functorch.peek_interpreter_stack().level()
    pairs: list[tuple[Any, int | None]] = []
    for tensor in tensors:
        pairs.append((None, None) if tensor is None else functorch._unwrap_batched(tensor, level))
    batches, dims = [x for x, _ in pairs], [dim for _, dim in pairs]
    sizes = [x.shape[dim] for x, dim in pairs if dim is not None]
    vmap = functorch.pop_dynamic_layer_stack()
    try:
        if not sizes:
            return by_rule(function, rule, *tensors)
        results = rule(sizes[0], dims, *batches)
    finally:
        functorch.push_dynamic_layer_stack(vmap)
    return [functorch._add_batch_dim(result, 0, level) for result in results]


def _batch_in_front(x: Tensor, dim: int | None) -> Tensor:
    if dim is not None:
        return x.movedim(dim, 0)
    # An outer vmap that maps this tensor puts its batch in front of the one that the tensor lacks.
    return x.unsqueeze(0) if untyped._C._functorch.is_functorch_wrapped_tensor(x) else x
