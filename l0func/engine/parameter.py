"""The gated parameter: a tensor that stands for ``weight * mask`` without holding that product.

:class:`~l0func.engine.stand_ins.StandIns` makes one for each gated weight in a call. The module
uses it like any parameter. Torch hands each use to ``GatedParameter.__torch_function__``, and that
runs the operation's handler from :mod:`l0func.engine.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from l0func.engine.entry_gates import EntryGates
from l0func.engine.hollow import as_kind, hollow
from l0func.engine.misfits import Named, in_words_of_parameters
from l0func.internal.arose import passed_by
from l0func.internal.context import compiling
from l0func.internal.descriptions import DESCRIPTIONS
from l0func.internal.function_kinds import writes
from l0func.internal.interception import function_name

Scales = tuple[Tensor | None, ...]
"""For each weight dimension a vector with the factors along it, or None."""

Handler = Callable[..., Any]
"""Runs in place of a torch function. It takes the same arguments and may return NotImplemented."""


class GatedParameter(Tensor):
    """A tensor that stands for ``weight * scales * masks``; the masks are its entry gates'.

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
        if compiling():
            return _computed(func, args, kwargs)
        try:
            return _computed(func, args, kwargs)
        except RuntimeError as error:
            in_words = _in_words(error, func, (*args, *kwargs.values()))
            if in_words is None:
                raise
            raise in_words from error

    def dense(self) -> Tensor:
        """The product itself.

        Raises:
            ValueError: Under local reparameterisation, if there are entry gates: it draws sums
                over a weight and has no masks.
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
        """A stand-in with other factors, and with the same handlers and path."""
        return stand_in(weight, scales, entry_gates, self.handlers, self.path)


def stand_in(
    weight: Tensor,
    scales: Scales,
    entry_gates: EntryGates | None,
    handlers: Mapping[Any, Handler],
    path: str,
) -> GatedParameter:
    """A tensor that stands for a weight times scales and masks.

    Args:
        weight: The weight, shape ``(*weight,)``.
        scales: For each weight dimension a vector with the factors along it, or None.
        entry_gates: Gates on single entries, or None.
        handlers: ``{torch function: handler}``.
        path: The parameter's path, for error messages.
    """
    parameter = as_kind(hollow(weight.shape, weight), GatedParameter)
    parameter.weight = weight
    parameter.scales = scales
    parameter.entry_gates = entry_gates
    parameter.handlers = handlers
    parameter.path = path
    return parameter


def broadcast_along(scale: Tensor, dim: int, rank: int) -> Tensor:
    """A vector, reshaped to multiply a tensor with this rank along dimension ``dim``."""
    return scale.reshape(-1, *(1,) * (rank - dim - 1))


def is_gated(value: Any) -> bool:
    """Whether a value is a gated parameter."""
    return isinstance(value, GatedParameter)


def dense(value: Any) -> Any:
    """A gated parameter's product; any other value unchanged."""
    return value.dense() if isinstance(value, GatedParameter) else value


def holds_gated(args: Any, kwargs: Any) -> bool:
    """Whether a gated parameter is among a call's arguments, or in a list there."""
    return len(_handlers_of(args, kwargs)) > 0


def _handlers_of(args: Any, kwargs: Any) -> Mapping[Any, Handler]:
    """The handlers of the first gated parameter among the arguments; empty without one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, GatedParameter):
            return value.handlers
        if isinstance(value, (tuple, list)):
            handlers = _handlers_of(value, {})
            if handlers:
                return handlers
    return {}


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A torch function's result, from the handler or on the products."""
    handler = _handlers_of(args, kwargs).get(func)
    if handler is not None:
        result = handler(*args, **kwargs)
        if result is not NotImplemented:
            return result
    check_not_written(func, args, kwargs)
    dense_kwargs = {name: _dense_inside(value) for name, value in kwargs.items()}
    return func(*map(_dense_inside, args), **dense_kwargs)


def _in_words(error: RuntimeError, func: Any, values: Sequence[Any]) -> ValueError | None:
    """The error with the names of the gated parameters, if their sizes or dtypes explain it.

    An error in code of a user's own, such as a law's draw, stays as it is.
    """
    if not all(one.by_torch for one in passed_by(error)):
        return None
    given = [value for value in values if isinstance(value, GatedParameter)]
    named = [Named(p.path, tuple(p.shape), p.dtype) for p in given]
    others = [t for t in values if isinstance(t, Tensor) and not is_gated(t)]
    return in_words_of_parameters(error, func, named, others) if named else None


def _weight_of(value: Any) -> Any:
    return value.weight if isinstance(value, GatedParameter) else value


def _dense_inside(value: Any) -> Any:
    """The value with a product for each gated parameter, in lists and tuples too."""
    if type(value) in (tuple, list):
        return type(value)([_dense_inside(item) for item in value])
    return dense(value)


def check_not_written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a function that writes into a gated parameter.

    Raises:
        ValueError: It does.
    """
    targets: tuple[Any, ...] = (kwargs.get("out"),)
    if writes(func):
        # torch.nn.init passes its tensor by name.
        targets = (*args[:1], *kwargs.values())
    for target in targets:
        if isinstance(target, GatedParameter):
            raise ValueError(
                f"{function_name(func)} writes into the gated parameter {target.path!r}, which a "
                "pure function may not do: it sees the product of a weight and a mask there, "
                "not the weight itself. Write a new tensor instead."
            )
