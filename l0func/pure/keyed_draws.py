"""Handlers for torch's plain random functions: they draw from a key what torch would.

``Keyed`` uses them. A ``generator`` is ignored, and ``out`` is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from l0func import random
from l0func.internal.interception import function_name
from l0func.internal.untyped import TENSOR, untyped
from l0func.pure import categories
from l0func.pure import draws_in_place as draws
from l0func.pure.integers import integers_below, permutation

Size = tuple[int, ...]


class KeySource(Protocol):
    """A context with a key for each call of a random function."""

    def key_for(self, func: Any) -> Tensor:
        """The next key."""
        ...


def _in_place(draw: Callable[..., Tensor], floating: bool = True) -> Callable[..., Tensor]:
    """A handler for an in-place method.

    Args:
        draw: The values, from a key, the tensor and the method's own arguments.
        floating: Whether the tensor must have a floating or complex type.
    """

    def handler(mode: KeySource, func: Any, /, input: Tensor, *args: Any, **named: Any) -> Tensor:
        _check_type(func, input.dtype, floating)
        named.pop("generator", None)
        renamed = {_RENAMED.get(name, name): value for name, value in named.items()}
        return _written(func, input, draw(mode.key_for(func), input, *args, **renamed))

    return handler


def _random_(mode: KeySource, func: Any, /, input: Tensor, *args: Any, **named: Any) -> Tensor:
    limits = args
    if len(args) == 1 and "to" not in named:
        # The only argument is the end.
        limits = (0, *args)
    return _in_place(draws.integers_values, floating=False)(mode, func, input, *limits, **named)


def _bernoulli(
    mode: KeySource,
    func: Any,
    /,
    input: Tensor,
    p: float | None = None,
    *,
    generator: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    probability = input if p is None else p
    values = draws.bernoulli_values(mode.key_for(func), input, probability)
    return _delivered(func, values.to(input.dtype), out)


def _like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A handler for torch.rand_like or torch.randn_like."""

    def handler(
        mode: KeySource,
        func: Any,
        /,
        input: Tensor,
        *,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        **named: Any,
    ) -> Tensor:
        own = dtype or input.dtype
        _check_type(func, own, floating=True)
        values = draw(mode.key_for(func), tuple(input.shape), own)
        placed = values.to(dtype=own, device=device or input.device)
        return placed.requires_grad_() if requires_grad else placed

    return handler


def _new(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A handler for torch.rand or torch.randn."""

    def handler(
        mode: KeySource,
        func: Any,
        /,
        *size: Any,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        out: Tensor | None = None,
        **named: Any,
    ) -> Tensor:
        own = dtype or (torch.get_default_dtype() if out is None else out.dtype)
        _check_type(func, own, floating=True)
        values = draw(mode.key_for(func), _shape_from(named.get("size", size)), own)
        placed = _delivered(func, values.to(dtype=own, device=device), out)
        return placed.requires_grad_() if requires_grad else placed

    return handler


def _uniform(key: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
    if dtype.is_complex:
        return torch.view_as_complex(random.uniform(key, (*shape, 2)))
    return draws.unit_in_type(random.uniform(key, shape), dtype)


def _normal(
    mode: KeySource,
    func: Any,
    /,
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Any = None,
    out: Tensor | None = None,
    dtype: Any = None,
    device: Any = None,
    **named: Any,
) -> Tensor:
    if size is not None:
        like = torch.empty(_shape_from((size,)), dtype=dtype, device=device)
        return _delivered(
            func, draws.normal_values(mode.key_for(func), like, mean, std).to(like), out
        )
    centre: Tensor = untyped.as_tensor(mean).detach()
    spread: Tensor = untyped.as_tensor(std).detach()
    like = centre + spread
    if not isinstance(mean, Tensor):
        like = like.to(spread.dtype)
    z = draws.standard_normal(mode.key_for(func), tuple(like.shape), like.dtype)
    return _delivered(func, (centre + spread * z.to(like)).to(like), out)


def _init_uniform_(
    mode: KeySource, func: Any, /, tensor: Tensor, a: float = 0.0, b: float = 1.0, **named: Any
) -> Tensor:
    with torch.no_grad():
        return _written(func, tensor, draws.uniform_values(mode.key_for(func), tensor, a, b))


def _init_normal_(
    mode: KeySource,
    func: Any,
    /,
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    **named: Any,
) -> Tensor:
    with torch.no_grad():
        return _written(func, tensor, draws.normal_values(mode.key_for(func), tensor, mean, std))


def _randint(
    mode: KeySource,
    func: Any,
    /,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    out: Tensor | None = None,
    **named: Any,
) -> Tensor:
    low, high, size = _range_and_size(args, named)
    values = low + integers_below(
        _range_of(func, low, high), mode.key_for(func), _shape_from((size,))
    )
    own = dtype or (torch.int64 if out is None else out.dtype)
    return _delivered(func, values.to(dtype=own, device=device), out)


def _randint_like(
    mode: KeySource,
    func: Any,
    /,
    input: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    **named: Any,
) -> Tensor:
    low, high, _ = _range_and_size((*args, None), named)
    count = _range_of(func, low, high)
    values = low + integers_below(count, mode.key_for(func), tuple(input.shape))
    return values.to(dtype=dtype or input.dtype, device=device or input.device)


def _randperm(
    mode: KeySource,
    func: Any,
    /,
    n: int,
    *,
    dtype: Any = None,
    device: Any = None,
    out: Tensor | None = None,
    **named: Any,
) -> Tensor:
    values = permutation(n, mode.key_for(func))
    own = dtype or (torch.int64 if out is None else out.dtype)
    return _delivered(func, values.to(dtype=own, device=device), out)


def _multinomial(
    mode: KeySource,
    func: Any,
    /,
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    key = mode.key_for(func)
    return _delivered(func, categories.multinomial(key, input, num_samples, replacement), out)


def _range_and_size(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, int, Any]:
    """``low``, ``high`` and ``size`` of torch.randint; ``low`` may be left out."""
    size = named["size"] if "size" in named else args[-1]
    limits = args if "size" in named else args[:-1]
    if "high" in named:
        limits = (*limits, named["high"])
    if "low" in named:
        limits = (named["low"], *limits)
    low, high = (0, *limits) if len(limits) == 1 else limits
    return int(low), int(high), size


def _range_of(func: Any, low: int, high: int) -> int:
    if low >= high:
        raise ValueError(f"{function_name(func)} takes low < high; got low={low} and high={high}.")
    return high - low


def _shape_from(size: Any) -> Size:
    """A shape from sizes or from one sequence of them."""
    if isinstance(size, int):
        return (size,)
    sizes = size[0] if len(size) == 1 and not isinstance(size[0], int | Tensor) else size
    return tuple([int(n) if isinstance(n, Tensor) else n for n in sizes])


def _check_type(func: Any, dtype: torch.dtype, floating: bool) -> None:
    if floating and not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"{function_name(func)} draws floating numbers; got {dtype}.")


def _delivered(func: Any, values: Tensor, out: Tensor | None) -> Tensor:
    """The values, written into ``out`` if the call has one."""
    if out is None:
        return values
    return _written(func, out.resize_(values.shape), values)


def _written(func: Any, like: Tensor, values: Tensor) -> Tensor:
    """Write draws into a tensor, as ``func`` does; returns the tensor."""
    try:
        return like.copy_(values)
    except RuntimeError as error:
        if "vmap: inplace" not in str(error):
            raise
        raise ValueError(
            f"{function_name(func)} draws for each row of a map, and writes into a tensor that "
            "all rows share. Draw into a tensor that this call makes, such as torch.empty(shape) "
            "or x.new_empty(shape): inside per_example each row has its own."
        ) from error


# torch names two limits by a word that Python reserves.
_RENAMED = {"from": "low", "to": "high"}

PLAIN_DRAWS: dict[Any, Callable[..., Any]] = {
    TENSOR.bernoulli_: _in_place(draws.bernoulli_values, floating=False),
    TENSOR.uniform_: _in_place(draws.uniform_values),
    TENSOR.normal_: _in_place(draws.normal_values),
    TENSOR.log_normal_: _in_place(draws.log_normal_values),
    TENSOR.exponential_: _in_place(draws.exponential_values),
    TENSOR.cauchy_: _in_place(draws.cauchy_values),
    TENSOR.geometric_: _in_place(draws.geometric_values, floating=False),
    TENSOR.random_: _random_,
    torch.bernoulli: _bernoulli,
    TENSOR.bernoulli: _bernoulli,
    # torch 2.13's compiler calls these two without any mode: compiled modules should write
    # torch.rand(x.shape).
    torch.rand_like: _like(_uniform),
    torch.randn_like: _like(draws.standard_normal),
    torch.rand: _new(_uniform),
    torch.randn: _new(draws.standard_normal),
    torch.normal: _normal,
    nn.init.uniform_: _init_uniform_,
    nn.init.normal_: _init_normal_,
    torch.randint: _randint,
    untyped.randint_like: _randint_like,
    torch.randperm: _randperm,
    torch.multinomial: _multinomial,
    TENSOR.multinomial: _multinomial,
}
