"""A context that draws the module's own randomness, such as dropout, from a key.

Every call of a pure module runs inside it; random functions without a keyed form are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.internal.interception import Interception, function_name
from l0func.pure.autocast import as_autocast
from l0func.pure.refused import REFUSED_HANDLERS
from l0func.pure.written_out import dropout as draws
from l0func.pure.written_out.table import REPLACEMENTS, Replacement, is_packed

# Keeps the draws of a module's own random functions apart from those of the gates, which are
# folded by name.
_MODULE_STREAM = 0x6D6F64756C65


class Keyed(Interception):
    """A context where torch's random functions draw from a key; each call draws from its own fold.

    Args:
        key: A key, shape ``(2,)``. None: every active random function raises a ValueError.
    """

    def __init__(self, key: Tensor | None) -> None:
        super().__init__(KEYED_HANDLERS)
        self.key = key
        self.calls = 0
        self.base: Tensor | None = None

    def key_for(self, func: Any) -> Tensor:
        """The next key in the sequence, for one call of ``func``.

        Raises:
            ValueError: The context has no key.
        """
        if self.key is None:
            raise ValueError(
                f"{function_name(func)} is random, and there is no key to draw from. Call the "
                "module through l0func.gated with a key, or put it in eval mode before "
                "l0func.make_functional."
            )
        if self.base is None:
            self.base = random.fold_in(self.key, _MODULE_STREAM)
        self.calls += 1
        return random.fold_in(self.base, self.calls - 1)

    def uniform(self, func: Any) -> draws.Uniform:
        """A source of uniforms for a call of ``func``; each use of it draws anew."""
        return lambda shape: random.uniform(self.key_for(func), shape)

    def dropout(self, func: Any) -> draws.Dropout:
        """Dropout for a call of ``func``; a written-out function may apply it many times."""
        return lambda x, p: draws.dropout(x, p, tuple(x.shape), self.uniform(func))


def _dropout(
    draw: Callable[..., Tensor], end: int | None, by_default: bool = True
) -> Callable[..., Any]:
    """A handler for one dropout function in ``torch.nn.functional``.

    Args:
        draw: The written-out function.
        end: The mask varies along the dimensions before ``end``, and has size 1 along the others.
            None is the end.
        by_default: The default value of ``training``.
    """

    def handler(
        mode: Keyed,
        func: Any,
        input: Tensor,
        p: float = 0.5,
        training: bool = by_default,
        inplace: bool = False,
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"A dropout probability is between 0 and 1; got {p}.")
        varying = tuple(input.shape[:end])
        ones = (1,) * (input.dim() - len(varying))
        y = draw(input, p, varying + ones, mode.uniform(func))
        return input.copy_(y) if inplace else y

    return handler


def _with_train(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same handler for a function in the torch namespace; its flag is named ``train``."""

    def with_train(mode: Keyed, func: Any, input: Tensor, p: float, train: bool) -> Tensor:
        return handler(mode, func, input, p, train)

    return with_train


def _rrelu(
    mode: Keyed,
    func: Any,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    if not training:
        return func(input, lower, upper, training, inplace)
    y = draws.rrelu(input, lower, upper, mode.uniform(func))
    return input.copy_(y) if inplace else y


def _gumbel_softmax(
    mode: Keyed,
    func: Any,
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
) -> Tensor:
    return draws.gumbel_softmax(logits, tau, hard, dim, mode.uniform(func))


def _bernoulli(
    mode: Keyed, func: Any, input: Tensor, p: float | None = None, **named: Any
) -> Tensor:
    uniform = mode.uniform(func)
    u = uniform(tuple(input.shape)).to(input.device)
    probability = input if p is None else p
    return (u < probability).to(input.dtype)


def _draw_like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A handler for torch.rand_like or torch.randn_like."""

    def handler(
        mode: Keyed, func: Any, input: Tensor, dtype: Any = None, device: Any = None, **named: Any
    ) -> Tensor:
        values = draw(mode.key_for(func), tuple(input.shape))
        return values.to(dtype=dtype or input.dtype, device=device or input.device)

    return handler


def _draw_new(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A handler for torch.rand or torch.randn."""

    def handler(
        mode: Keyed, func: Any, *size: Any, dtype: Any = None, device: Any = None, **named: Any
    ) -> Tensor:
        if len(size) == 1 and not isinstance(size[0], int):
            # The sizes may come as one sequence.
            size = tuple(size[0])
        values = draw(mode.key_for(func), size)
        return values.to(dtype=dtype or torch.get_default_dtype(), device=device)

    return handler


def _keyed_dropout(replacement: Replacement) -> Callable[..., Any]:
    """A handler for attention or a recurrent network: written out if dropout is active."""

    def handler(mode: Keyed, func: Any, *args: Any, **named: Any) -> Any:
        if not replacement.applies_dropout(args, named):
            return func(*args, **named)
        if replacement.packs and is_packed(args):
            raise ValueError(
                f"{function_name(func)} has no keyed dropout between layers for packed sequences; "
                "pad them instead."
            )
        written_out = partial(replacement.function, dropout=mode.dropout(func))
        return as_autocast(func, written_out, args, named)

    return handler


_DROPOUTS: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout(draws.dropout, None),
    F.dropout1d: _dropout(draws.dropout, -1),
    F.dropout2d: _dropout(draws.dropout, 2),
    F.dropout3d: _dropout(draws.dropout, -3),
    F.alpha_dropout: _dropout(draws.alpha_dropout, None, by_default=False),
    F.feature_alpha_dropout: _dropout(draws.alpha_dropout, 2, by_default=False),
    torch.dropout: _with_train(_dropout(draws.dropout, None)),
    torch.feature_dropout: _with_train(_dropout(draws.dropout, 2)),
    torch.alpha_dropout: _with_train(_dropout(draws.alpha_dropout, None)),
    torch.feature_alpha_dropout: _with_train(_dropout(draws.alpha_dropout, 2)),
}
_DRAWS: dict[Any, Callable[..., Any]] = {
    F.rrelu: _rrelu,
    F.gumbel_softmax: _gumbel_softmax,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    # torch 2.13's compiler calls these two without any mode: compiled modules should write
    # torch.rand(x.shape).
    torch.rand_like: _draw_like(random.uniform),
    torch.randn_like: _draw_like(random.normal),
    torch.rand: _draw_new(random.uniform),
    torch.randn: _draw_new(random.normal),
}
_KEYED_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    func: _keyed_dropout(replacement)
    for func, replacement in REPLACEMENTS.items()
    if replacement.has_dropout is not None
}
KEYED_HANDLERS: dict[Any, Callable[..., Any]] = {
    **REFUSED_HANDLERS,
    **_DROPOUTS,
    **_DRAWS,
    **_KEYED_REPLACEMENTS,
}
