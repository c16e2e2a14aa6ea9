"""A parameter of which this process holds a part, inside of a mask for every row.

Outside of its operations every tensor is whole and the same in all processes. ``F.linear``
multiplies by the part that the process holds: a sum or its outputs leave, in one collective. Any
other operation reads the whole product of weight and mask, put together from all processes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func.engine.hollow import as_kind, hollow
from l0func.engine.ops.linear import scaled_product
from l0func.engine.parameter import GatedParameter, check_not_written, dense
from l0func.internal.descriptions import DESCRIPTIONS
from l0func.internal.regions import CutGroups, entered, groups_that_cut, left, shared_out
from l0func.internal.sharding import Owned, ShardLayout, as_index
from l0func.internal.shards import taken


class PartPlace(NamedTuple):
    """The place of a part in its parameter."""

    own: tuple[Owned, ...]
    """For each dimension the indices of the part."""

    shape: tuple[int, ...]
    """The parameter's shape."""

    layout: ShardLayout
    """How it lies."""

    def cutting(self, *dims: int) -> CutGroups:
        """The groups whose processes hold different indices along some dimensions."""
        return groups_that_cut(self.layout, dims)


class OwnParameter(GatedParameter):
    """A tensor that stands for a whole ``weight * mask``; this process holds a part of it.

    Made by :func:`own_parameter`.
    """

    held: Tensor
    """The part: plain, or a gated parameter."""

    place: PartPlace
    described: Tensor
    """A plain tensor of the same shape, dtype and device."""

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The operation on the part, or on the whole product."""
        kwargs = kwargs or {}
        if func in DESCRIPTIONS:
            return func(*map(_described, args), **kwargs)
        if func is F.linear:
            result = _linear_by_parts(*args, **kwargs)
            if result is not NotImplemented:
                return result
        check_not_written(func, args, kwargs)
        whole = {name: _whole_inside(value) for name, value in kwargs.items()}
        return func(*map(_whole_inside, args), **whole)

    def dense(self) -> Tensor:
        """The whole product, from all processes: a collective."""
        product = dense(self.held)
        for dim, own in enumerate(self.place.own):
            product = spread_out(product, dim, own, self.place.shape[dim])
        return left(product, self.place.cutting(*range(product.dim())))


def own_parameter(held: Tensor, place: PartPlace, path: str) -> OwnParameter:
    """A stand-in for a parameter.

    Args:
        held: The part in this process: plain, or a gated parameter.
        place: Its place.
        path: The parameter's path, for error messages.
    """
    storage = hollow(place.shape, held)
    parameter = as_kind(storage, OwnParameter)
    parameter.held = held
    parameter.place = place
    parameter.described = storage
    parameter.path = path
    return parameter


def _linear_by_parts(input: Any, weight: Any, bias: Any = None) -> Any:
    """``F.linear`` with the part of a matrix in this process."""
    if not isinstance(weight, OwnParameter) or weight.dim() != 2:
        return NotImplemented
    place = weight.place
    (rows, columns), (outputs, inputs) = place.own, place.shape
    x = entered(dense(input), place.cutting(0, 1))
    y = _own_outputs(taken(x, -1, range(inputs), columns), weight)
    is_added = isinstance(bias, OwnParameter) and bias.place.layout == place.layout
    if is_added:
        y = y + dense(bias.held)
    whole = left(spread_out(y, -1, rows, outputs), place.cutting(0))
    return whole if bias is None or is_added else whole + dense(bias)


def _own_outputs(x: Tensor, weight: OwnParameter) -> Tensor:
    """The sums over all columns, for the rows in this process."""
    held, summed = weight.held, weight.place.cutting(1)
    if not isinstance(held, GatedParameter):
        return left(F.linear(x, held), summed)
    gates = held.entry_gates
    if gates is not None and gates.local_reparam:
        return _with_noise(x, held, summed)
    if gates is not None and gates.part is not None and gates.part.lines is None:
        # The kernels draw rectangles of a matrix.
        masks = gates.mask(2).to(held.dtype)
        held = held.like(held.weight * masks, held.scales, None)
    return left(scaled_product(x, held), summed)


def _with_noise(x: Tensor, held: GatedParameter, summed: CutGroups) -> Tensor:
    """Local reparameterisation: the noise is added to sums, and not to terms."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return left(F.linear(x, w), summed)

    on_outputs, on_inputs = held.scales
    # It multiplies the sums, in all processes alike.
    shared = None if on_outputs is None else shared_out(on_outputs, summed)
    own = held.like(held.weight, (shared, on_inputs), held.entry_gates)
    return scaled_product(x, own, product)


def spread_out(part: Tensor, dim: int, own: Owned, size: int) -> Tensor:
    """A part among zeros, at its own indices along a dimension of this size."""
    if len(own) == size:
        return part
    if isinstance(own, range):
        return _with_zeros(part, dim, own.start, size - own.start - len(own))
    places = torch.full((size,), len(own), device="cpu")
    places[as_index(own)] = torch.arange(len(own), device="cpu")
    # Every other index reads a zero behind the part.
    return _with_zeros(part, dim, 0, 1).index_select(dim, places.to(part.device))


def _with_zeros(part: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros in front of and behind a tensor, along one dimension."""
    behind = part.dim() - 1 - dim % part.dim()
    return F.pad(part, [0, 0] * behind + [before, after])


def _described(value: Any) -> Any:
    return value.described if isinstance(value, OwnParameter) else value


def _whole_inside(value: Any) -> Any:
    """The value with the whole product for each of these parameters, in lists and tuples too."""
    if type(value) in (tuple, list):
        return type(value)([_whole_inside(item) for item in value])
    return value.dense() if isinstance(value, OwnParameter) else value
