"""What a function sees in place of a gated parameter: its product with a mask that is never laid
out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from l0func import random
from l0func.distributions import GateDistribution
from l0func.internal.context import compiling
from l0func.internal.interception import function_name

Scales = tuple[Tensor | None, ...]
Handler = Callable[..., Any]


@dataclass(frozen=True)
class EntryGates:
    """Gates of single entries that are drawn where they are used.

    Args:
        distribution: Of the gates.
        key: The gates' own key.
        log_alpha: Locations; their dimensions are the weight's first ones.
        first: Position of the first of them in the key's stream.
        turned: Whether the weight is the transpose of what the gates are laid out for.
        uses: None: masks are drawn. A list: sums are, and what they were drawn for is noted in it.
    """

    distribution: GateDistribution
    key: Tensor
    log_alpha: Tensor
    first: int = 0
    turned: bool = False
    uses: list[tuple[int, int]] | None = None

    def mask(self, rank: int, path: str) -> Tensor:
        """The masks, of a weight's rank.

        Raises:
            ValueError: Under local reparameterisation, which has none.
        """
        if self.uses is not None:
            raise ValueError(
                f"Local reparameterisation draws the sums of a linear layer or a convolution, and "
                f"{path!r} is read by another "
                "operation, or at every step of a recurrent one. Use sampling='exact', or gate "
                "its rows or columns."
            )
        la = self.log_alpha
        skip, count = self.first % 4, la.numel()
        start = torch.stack((self.key[..., 0], self.key[..., 1] + self.first // 4), dim=-1)
        u = random.uniform(start, skip + count)[..., skip:].reshape(la.shape)
        z = self.distribution.quantile(u, la)
        z = z.reshape(*z.shape, *(1,) * (rank - z.dim()))
        return z.transpose(-2, -1) if self.turned else z


class GatedParameter(Tensor):
    """A tensor that stands for ``weight * mask``.

    Its own storage is a NaN that is expanded to the shape of the weight, so that a road around the
    rules is loud. Operations with a rule are done on weight, scales and draws; all others on the
    product.
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
        """The operation's rule, or the operation on the product."""
        kwargs = kwargs or {}
        if func in DESCRIPTIONS:
            return func(
                *(a.weight if isinstance(a, GatedParameter) else a for a in args), **kwargs
            )
        handler = _handlers_of(args, kwargs).get(func)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        _refuse_writing(func, args, kwargs)
        return func(
            *(_dense(value) for value in args),
            **{name: _dense(value) for name, value in kwargs.items()},
        )

    def dense(self) -> Tensor:
        """The product itself."""
        p = self.weight
        for dim, scale in enumerate(self.scales):
            if scale is not None:
                p = p * broadcast_along(scale, dim, p.dim())
        return (
            p
            if self.entry_gates is None
            else p * self.entry_gates.mask(p.dim(), self.path).to(p.dtype)
        )

    def like(
        self, weight: Tensor, scales: Scales, entry_gates: EntryGates | None
    ) -> GatedParameter:
        """Another stand-in that follows the same rules."""
        return stand_in(weight, scales, entry_gates, self.handlers, self.path)


def stand_in(
    weight: Tensor,
    scales: Scales,
    entry_gates: EntryGates | None,
    handlers: Mapping[Any, Handler],
    path: str,
) -> GatedParameter:
    """A tensor that stands for the product of a weight with factors broadcast_along its dimensions and with
    masks.
    """
    nothing: Any = torch.full((), float("nan"), dtype=weight.dtype, device=weight.device).expand(
        weight.shape
    )
    p = nothing.as_subclass(GatedParameter)
    p.weight, p.scales, p.entry_gates, p.handlers, p.path = (
        weight,
        scales,
        entry_gates,
        handlers,
        path,
    )
    return p


def broadcast_along(scale: Tensor, dim: int, rank: int) -> Tensor:
    """A vector laid out broadcast_along a dimension."""
    return scale.reshape(-1, *(1,) * (rank - dim - 1))


def dense(value: Any) -> Any:
    """The value, or what it stands for."""
    return value.dense() if isinstance(value, GatedParameter) else value


def sliced(entry_gates: EntryGates | None, start: int, length: int) -> EntryGates | None:
    """The gates of some rows of a weight."""
    if entry_gates is None:
        return None
    row = prod(entry_gates.log_alpha.shape[1:])
    return replace(
        entry_gates,
        log_alpha=entry_gates.log_alpha.narrow(0, start, length),
        first=entry_gates.first + start * row,
    )


def holds_gated(args: Any, kwargs: Any) -> bool:
    """Whether a stand-in is among the arguments of a call, or in a list there."""
    return len(_handlers_of(args, kwargs)) > 0


def _handlers_of(args: Any, kwargs: Any) -> Mapping[Any, Handler]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, GatedParameter):
            return value.handlers
        if isinstance(value, tuple | list):
            handlers = _handlers_of(value, {})
            if handlers:
                return handlers
    return {}


def _dense(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)([_dense(item) for item in value])
    return dense(value)


def _refuse_writing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    writes = _is_writer(func) or (not compiling() and getattr(func, "__name__", "") == "__set__")
    # torch.nn.init passes its tensor by name.
    written = (*args[:1], *kwargs.values()) if writes else (kwargs.get("out"),)
    for target in written:
        if isinstance(target, GatedParameter):
            raise ValueError(
                f"{function_name(func)} writes into the gated parameter {target.path!r}, which a pure "
                f"function may not: what it sees "
                "there is the product of a weight and a mask. Write a new tensor instead."
            )


def _writers() -> Callable[[Any], bool]:
    """Whether a function writes into its first argument."""

    def writes(name: str) -> bool:
        in_place = name.endswith("_") and not name.startswith("_")
        return (
            in_place or name == "__setitem__" or (name.startswith("__i") and name[3:] in OPERATORS)
        )

    homes: tuple[Any, ...] = (Tensor, torch, torch.nn.init)
    functions = [getattr(home, name) for home in homes for name in dir(home) if writes(name)]
    writers = frozenset(function for function in functions if callable(function))
    listed = tuple(writers)
    # The compiler cannot hash all of these functions, but can tell them apart.
    return lambda func: (
        any(func is writer for writer in listed) if compiling() else func in writers
    )


OPERATORS = tuple(
    f"{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
)


def _descriptions() -> frozenset[Any]:
    tensor: Any = Tensor
    properties = (
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "is_sparse",
        "is_cuda",
        "is_meta",
        "is_quantized",
        "requires_grad",
    )
    methods = (
        "dim",
        "size",
        "numel",
        "nelement",
        "ndimension",
        "is_floating_point",
        "is_complex",
        "element_size",
        "get_device",
    )
    getters = [getattr(tensor, name).__get__ for name in properties]
    return frozenset(
        [
            *getters,
            *(getattr(tensor, name) for name in methods),
            torch.numel,
            torch.is_floating_point,
        ]
    )


DESCRIPTIONS = _descriptions()
"""Questions about the tensor that its values have no part in."""
_is_writer = _writers()
