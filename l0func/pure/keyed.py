"""What a pure function may not do, random draws first: answered from a key, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.internal.interception import Interception, function_name
from l0func.pure.written_out import attention, recurrent
from l0func.pure.written_out import dropout as drop

# Keeps the draws of a module's own random functions apart from those of the gates, which are
# folded by name.
_MODULE_STREAM = 0x6D6F64756C65


class Keyed(Interception):
    """A context in which torch's random functions draw from ``key``, one fold of it for each call.

    Args:
        key: A key, shape ``(2,)``; None refuses every random function that is active.
    """

    def __init__(self, key: Tensor | None) -> None:
        super().__init__(KEYED_HANDLERS)
        self.key, self.calls = key, 0
        self.base: Tensor | None = None

    def key_for(self, func: Any) -> Tensor:
        """The key of this call, the next of the sequence.

        Raises:
            ValueError: There is none.
        """
        if self.key is None:
            raise ValueError(
                f"{function_name(func)} is random, and there is no key to draw from. Call the module "
                f"through l0func.gated with a "
                "key, or put it in eval mode before l0func.make_functional."
            )
        if self.base is None:
            self.base = random.fold_in(self.key, _MODULE_STREAM)
        self.calls += 1
        return random.fold_in(self.base, self.calls - 1)

    def uniform(self, func: Any) -> drop.Uniform:
        """A source of uniforms for one call of ``func``."""
        return lambda shape: random.uniform(self.key_for(func), shape)

    def dropout(self, func: Any) -> attention.Dropout:
        """Dropout as the written-out functions call it."""
        return lambda x, p: drop.dropout(x, p, tuple(x.shape), self.uniform(func))


def _dropout(kept: Callable[[int], int], alpha: bool = False) -> Callable[..., Any]:
    """The rule of a dropout function whose mask keeps the first ``kept(x.dim())`` sizes of its
    input.
    """
    drawn = drop.alpha_dropout if alpha else drop.dropout

    def rule(
        mode: Keyed,
        func: Any,
        input: Tensor,
        p: float = 0.5,
        training: bool = not alpha,
        inplace: bool = False,
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"A dropout probability is between 0 and 1; got {p}.")
        sizes = kept(input.dim())
        shape = tuple(input.shape[:sizes]) + (1,) * (input.dim() - sizes)
        y = drawn(input, p, shape, mode.uniform(func))
        return input.copy_(y) if inplace else y

    return rule


def _trained(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for the functions of the torch namespace, which call the flag ``train``."""

    def trained(mode: Keyed, func: Any, input: Tensor, p: float, train: bool) -> Tensor:
        return rule(mode, func, input, p, train)

    return trained


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
    y = drop.rrelu(input, lower, upper, mode.uniform(func))
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
    return drop.gumbel_softmax(logits, tau, hard, dim, mode.uniform(func))


def _bernoulli(
    mode: Keyed, func: Any, input: Tensor, p: float | None = None, **named: Any
) -> Tensor:
    u = mode.uniform(func)(tuple(input.shape)).to(input.device)
    return (u < (input if p is None else p)).to(input.dtype)


def _like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        mode: Keyed, func: Any, input: Tensor, dtype: Any = None, device: Any = None, **named: Any
    ) -> Tensor:
        values = draw(mode.key_for(func), tuple(input.shape))
        return values.to(dtype=dtype or input.dtype, device=device or input.device)

    return rule


def _new(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        mode: Keyed, func: Any, *size: Any, dtype: Any = None, device: Any = None, **named: Any
    ) -> Tensor:
        shape = tuple(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        values = draw(mode.key_for(func), shape)
        return values.to(dtype=dtype or torch.get_default_dtype(), device=device)

    return rule


def _scaled_dot_product_attention(mode: Keyed, func: Any, *args: Any, **named: Any) -> Any:
    dropout_p = args[4] if len(args) > 4 else named.get("dropout_p", 0.0)
    if dropout_p == 0.0:
        return func(*args, **named)
    return attention.scaled_dot_product_attention(*args, **named, dropout=mode.dropout(func))


def _multi_head_attention(mode: Keyed, func: Any, *args: Any, **named: Any) -> Any:
    dropout_p = args[10] if len(args) > 10 else named.get("dropout_p", 0.0)
    training = args[13] if len(args) > 13 else named.get("training", True)
    if dropout_p == 0.0 or not training:
        return func(*args, **named)
    return attention.multi_head_attention_forward(*args, **named, dropout=mode.dropout(func))


def _recurrent(written_out: Callable[..., Any]) -> Callable[..., Any]:
    def rule(mode: Keyed, func: Any, *args: Any) -> Any:
        # (..., num_layers, dropout, train, bidirectional[, batch_first]): the packed form lacks
        # the last and has its batch sizes first, so that both have nine arguments.
        packed = recurrent.is_packed(args)
        layers, p, train = args[5:8] if packed else args[4:7]
        if not train or p == 0.0 or layers == 1:
            return func(*args)
        if packed:
            raise ValueError(
                f"{function_name(func)} has no keyed dropout between layers for packed sequences; pad "
                f"them instead."
            )
        return written_out(*args, dropout=mode.dropout(func))

    return rule


def _refused(mode: Keyed, func: Any, *args: Any, **named: Any) -> Any:
    raise ValueError(
        f"{function_name(func)} draws from the global generator, which a pure function may not. Write it "
        f"with torch.rand_like or "
        "torch.bernoulli, which draw from the key inside l0func.gated, or pass the draw in as an "
        "input."
    )


def _unless_max_norm(position: int) -> Callable[..., Any]:
    """The rule of a lookup whose argument at ``position`` is max_norm."""

    def rule(mode: Keyed, func: Any, /, *args: Any, **named: Any) -> Any:
        max_norm = args[position] if len(args) > position else named.get("max_norm")
        if max_norm is not None:
            raise ValueError(
                f"{function_name(func)} with max_norm={max_norm} rewrites its weight, which a pure "
                f"function may not. Leave it out, and "
                "renormalise the parameter between steps if you need to."
            )
        return func(*args, **named)

    return rule


def _all(dim: int) -> int:
    return dim


def _two(dim: int) -> int:
    return 2


_IN_PLACE = (
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
)
_GLOBAL = ("multinomial", "normal", "poisson", "randint", "randint_like", "randperm", "rrelu")
_POOLS = tuple(
    f"fractional_max_pool{d}d{ending}" for d in (2, 3) for ending in ("", "_with_indices")
)

KEYED_HANDLERS: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout(_all),
    F.dropout1d: _dropout(lambda dim: dim - 1),
    F.dropout2d: _dropout(_two),
    F.dropout3d: _dropout(lambda dim: dim - 3),
    F.alpha_dropout: _dropout(_all, alpha=True),
    F.feature_alpha_dropout: _dropout(_two, alpha=True),
    torch.dropout: _trained(_dropout(_all)),
    torch.feature_dropout: _trained(_dropout(_two)),
    torch.alpha_dropout: _trained(_dropout(_all, alpha=True)),
    torch.feature_alpha_dropout: _trained(_dropout(_two, alpha=True)),
    F.rrelu: _rrelu,
    F.gumbel_softmax: _gumbel_softmax,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    # torch 2.13's compiler passes these two by every mode: compiled modules should write
    # torch.rand(x.shape).
    torch.rand_like: _like(random.uniform),
    torch.randn_like: _like(random.normal),
    torch.rand: _new(random.uniform),
    torch.randn: _new(random.normal),
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
    F.multi_head_attention_forward: _multi_head_attention,
    F.embedding: _unless_max_norm(3),
    F.embedding_bag: _unless_max_norm(3),
    torch.lstm: _recurrent(recurrent.lstm),
    torch.gru: _recurrent(recurrent.gru),
    torch.rnn_tanh: _recurrent(recurrent.rnn_tanh),
    torch.rnn_relu: _recurrent(recurrent.rnn_relu),
    **dict.fromkeys((getattr(Tensor, name) for name in (*_IN_PLACE, "multinomial")), _refused),
    **dict.fromkeys((getattr(torch, name) for name in _GLOBAL), _refused),
    **dict.fromkeys((getattr(F, name) for name in _POOLS), _refused),
}
