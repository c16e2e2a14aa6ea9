"""The computation of a sweep: at once, or as one operator that is opaque to a compiler.

A compiler that saw the loop over examples would unroll it, or hold all masks in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l0func.distributions import GateDistribution
from l0func.distributions.identities import distribution_of
from l0func.internal.context import has_custom_operators
from l0func.internal.untyped import untyped
from l0func.kernels.backends import kernels_for
from l0func.kernels.contraction import Contraction, Kind, Operands, Output, result_shape
from l0func.kernels.convolution import ConvolutionSizes


@dataclass(frozen=True)
class Sweep:
    """Several results from the same masks.

    Args:
        contraction: The sizes.
        outputs: The results to compute.
    """

    contraction: Contraction
    outputs: tuple[Output, ...]


# A graph holds no objects of ours: its constants are texts, numbers and tuples of them.


class Constants(NamedTuple):
    """A sweep in a compiler's graph."""

    distribution: str
    shape: tuple[int, ...]
    repeat: int
    first: int
    convolution: tuple[int, ...]
    kinds: tuple[Kind, ...]
    orders: tuple[int, ...]
    step: int


def in_graph(sweep: Sweep) -> Constants:
    """A sweep as constants."""
    contraction = sweep.contraction
    distribution, sizes = contraction.distribution, contraction.convolution
    assert isinstance(distribution, GateDistribution)
    return Constants(
        distribution.identity,
        contraction.shape,
        contraction.repeat,
        contraction.first,
        () if sizes is None else sizes.numbers,
        tuple([output.kind for output in sweep.outputs]),
        tuple([output.order for output in sweep.outputs]),
        contraction.step,
    )


def from_graph(constants: Constants) -> Sweep:
    """The inverse of :func:`in_graph`."""
    distribution, shape, repeat, first, convolution, kinds, orders, step = constants
    # A compiler may leave sizes open; those of a weight are constants of the sweep.
    weight_rows, columns = [int(size) for size in shape]
    sizes = ConvolutionSizes.from_numbers([int(number) for number in convolution])
    shared = (weight_rows, columns), int(repeat), int(first), sizes
    known = distribution_of(distribution)
    contraction = Contraction(known, *shared, in_graph=True, step=int(step))
    pairs = zip(kinds, orders, strict=True)
    return Sweep(contraction, tuple([Output(kind, order) for kind, order in pairs]))


def computed(sweep: Sweep, keys: Tensor, operands: Operands) -> list[Tensor]:
    """The results of a sweep.

    Args:
        sweep: The constants.
        keys: A key for each example, ``(B, 2)``.
        operands: The factors.

    Returns:
        For each output a tensor.
    """
    tensors = keys, *operands
    if _has_values(tensors):
        return _contracted(sweep, keys, operands)
    return _operator(*tensors, *in_graph(sweep))


def _has_values(tensors: Sequence[Tensor | None]) -> bool:
    """Whether nothing traces the tensors, so that the results may be computed at once."""
    known = all(t is None or type(t) is Tensor for t in tensors)
    return known and untyped._C._len_torch_dispatch_stack() == 0


def _contracted(sweep: Sweep, keys: Tensor, operands: Operands) -> list[Tensor]:
    tensors = [t for t in (keys, *operands) if t is not None]
    kernels = kernels_for(*tensors)
    return kernels.contract(sweep.contraction, sweep.outputs, keys, operands)


def _with_transforms() -> AbstractContextManager[Any]:
    """A context in which torch differentiates again: it runs operators below that layer.

    A user's gates are differentiated as they are drawn.
    """
    core: Any = untyped._C
    every = core._dispatch_keyset_full()
    return core._ForceDispatchKeyGuard(core._dispatch_tls_local_include_set(), every - every)


def _sweep_of(args: tuple[Any, ...]) -> tuple[Sweep, Tensor, Operands]:
    """The operator's arguments, as in its schema: keys, factors and constants."""
    keys, log_alpha, a, x, g, *constants = args
    return from_graph(Constants(*constants)), keys, Operands(log_alpha, a, x, g)


def _opaque(*args: Any) -> list[Tensor]:
    """The operator's values."""
    return _contracted(*_sweep_of(args))


def _opaque_values(*args: Any) -> list[Tensor]:
    with torch.no_grad(), _with_transforms():
        return _opaque(*args)


def _empty_results(*args: Any) -> list[Tensor]:
    """Empty results in their shapes, for a compiler."""
    sweep, keys, operands = _sweep_of(args)
    contraction = sweep.contraction
    shapes = [result_shape(kind, contraction, keys, operands) for kind, _ in sweep.outputs]
    return [operands.log_alpha.new_empty(shape) for shape in shapes]


_SCHEMA = (
    "(Tensor keys, Tensor log_alpha, Tensor? a, Tensor? x, Tensor? g, str distribution, "
    "int[] shape, int repeat, int first, int[] convolution, str[] kinds, int[] orders, "
    "int step) -> Tensor[]"
)


def _custom_operator() -> Callable[..., list[Tensor]]:
    if not has_custom_operators():
        return _opaque
    library: Any = torch.library
    operator = library.custom_op(
        "l0func::contract", _opaque_values, mutates_args=(), schema=_SCHEMA
    )
    operator.register_fake(_empty_results)
    return operator


_operator = _custom_operator()
