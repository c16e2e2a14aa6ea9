"""The gated parameter: a tensor that stands for ``weight * mask`` without holding that product.

:class:`~l0func.engine.stand_ins.StandIns` makes one for each gated weight of a call. The module
uses it like any parameter, and torch hands each such use to ``GatedParameter.__torch_function__``,
which runs the operation's handler from :mod:`l0func.engine.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from l0func.engine.entry_gates import EntryGates
from l0func.engine.function_kinds import DESCRIPTIONS, writes
from l0func.internal.interception import function_name

Scales = tuple[Tensor | None, ...]
"""For each dimension of a weight the factors along it, a vector; None where there are none."""

Handler = Callable[..., Any]
"""Runs in place of a torch function, with its arguments; may return NotImplemented."""


class GatedParameter(Tensor):
    """A tensor that stands for ``weight * scales * masks of the entry gates``.

    Made by :func:`stand_in`. An operation with a handler is computed from the factors; any other
    operation is computed on their product.
    """

    weight: Tensor
    scales: Scales
    entry_gates: EntryGates | None
    handlers: Mapping[Any, Handler]
    path: str

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The operation's handler, or the operation on the product."""
        kwargs = kwargs or {}
        if func in DESCRIPTIONS:
            return func(*map(_weight_of, args), **kwargs)
        handler = _handlers_of(args, kwargs).get(func)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        _refuse_writing(func, args, kwargs)
        dense_kwargs = {name: _dense_inside(value) for name, value in kwargs.items()}
        return func(*map(_dense_inside, args), **dense_kwargs)

    def dense(self) -> Tensor:
        """The product itself.

        Raises:
            ValueError: The entry gates are under local reparameterisation, which draws no masks.
        """
        product = self.weight
        for dim, scale in enumerate(self.scales):
            if scale is not None:
                product = product * broadcast_along(scale, dim, product.dim())
        gates = self.entry_gates
        if gates is None:
            return product
        if gates.local_reparam:
            raise ValueError(
                "Local reparameterisation draws the sums of a linear layer or a convolution, and "
                f"{self.path!r} is read by another operation, or at every step of a recurrent "
                "one. Use sampling='exact', or gate its rows or columns."
            )
        return product * gates.mask(product.dim()).to(product.dtype)

    def like(
        self, weight: Tensor, scales: Scales, entry_gates: EntryGates | None
    ) -> GatedParameter:
        """A stand-in made of other factors, with the same handlers and path."""
        return stand_in(weight, scales, entry_gates, self.handlers, self.path)


def stand_in(
    weight: Tensor,
    scales: Scales,
    entry_gates: EntryGates | None,
    handlers: Mapping[Any, Handler],
    path: str,
) -> GatedParameter:
    """A tensor that stands for the product of a weight with scales and masks.

    Args:
        weight: The weight, shape ``(*weight,)``.
        scales: For each dimension of the weight a vector of factors along it, or None.
        entry_gates: Gates on single entries, or None.
        handlers: ``{torch function: handler}``.
        path: The parameter's path, for error messages.
    """
    # A tensor subclass needs storage of its own, which nothing should read: code that bypasses
    # __torch_function__ would use the weight without its gates. A NaN makes such a mistake loud,
    # and expanded it takes the memory of one number.
    nan = torch.full((), float("nan"), dtype=weight.dtype, device=weight.device)
    storage: Any = nan.expand(weight.shape)
    parameter = storage.as_subclass(GatedParameter)
    parameter.weight = weight
    parameter.scales = scales
    parameter.entry_gates = entry_gates
    parameter.handlers = handlers
    parameter.path = path
    return parameter


def broadcast_along(scale: Tensor, dim: int, rank: int) -> Tensor:
    """A vector, reshaped to multiply dimension ``dim`` of a tensor of this rank."""
    return scale.reshape(-1, *(1,) * (rank - dim - 1))


def dense(value: Any) -> Any:
    """The product that a gated parameter stands for; any other value unchanged."""
    return value.dense() if isinstance(value, GatedParameter) else value


def holds_gated(args: Any, kwargs: Any) -> bool:
    """Whether a gated parameter is among the arguments of a call, or in a list there."""
    return len(_handlers_of(args, kwargs)) > 0


def _handlers_of(args: Any, kwargs: Any) -> Mapping[Any, Handler]:
    """The handlers of the first gated parameter among the arguments; none without one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, GatedParameter):
            return value.handlers
        if isinstance(value, tuple | list):
            handlers = _handlers_of(value, {})
            if handlers:
                return handlers
    return {}


def _weight_of(value: Any) -> Any:
    return value.weight if isinstance(value, GatedParameter) else value


def _dense_inside(value: Any) -> Any:
    """The value with products in place of gated parameters, in lists and tuples too."""
    if type(value) in (tuple, list):
        return type(value)([_dense_inside(item) for item in value])
    return dense(value)


def _refuse_writing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # torch.nn.init passes its tensor by name.
    written = (*args[:1], *kwargs.values()) if writes(func) else (kwargs.get("out"),)
    for target in written:
        if isinstance(target, GatedParameter):
            raise ValueError(
                f"{function_name(func)} writes into the gated parameter {target.path!r}, which a "
                "pure function may not do: it sees the product of a weight and a mask there, "
                "not the weight itself. Write a new tensor instead."
            )
