"""A context that draws the module's own randomness, such as dropout, from a key.

Every call of a pure module runs inside it; random functions without a keyed form are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l0func import random
from l0func.internal.context import compiling
from l0func.internal.interception import Interception, function_name
from l0func.internal.sharding import is_dtensor
from l0func.internal.source_line import calling_line
from l0func.internal.untyped import TENSOR, untyped
from l0func.internal.whole import shown_layout
from l0func.pure.autocast import as_autocast
from l0func.pure.custom_call import custom_function_call, run_custom
from l0func.pure.dropped_buffers import WATCH_HANDLERS
from l0func.pure.fresh import FRESH_HANDLERS
from l0func.pure.keyed_draws import PLAIN_DRAWS
from l0func.pure.reads import READ_HANDLERS
from l0func.pure.recompute import Counted, Numbers, Watch
from l0func.pure.refused import REFUSED_HANDLERS
from l0func.pure.row_writes import ROW_WRITE_HANDLERS
from l0func.pure.writes import WRITE_HANDLERS
from l0func.pure.written_out import dropout as draws
from l0func.pure.written_out.table import REPLACEMENTS, Replacement, is_packed

# Keeps the draws of a module's own random functions apart from those of the gates, which are
# folded by name.
_MODULE_STREAM = 0x6D6F64756C65
_PLAIN_TENSORS = frozenset((Tensor, nn.Parameter))


class Keyed(Interception):
    """A context where torch's random functions draw from a key; each call draws from its own fold.

    Args:
        key: A key, shape ``(2,)``. None: every active random function raises a ValueError.
        watch: Notes what the backward pass may run again; None inside a compiler, which does
            that by itself.
        numbers: The numbers of the draws in the key's stream; by default from 0.
    """

    def __init__(
        self, key: Tensor | None, watch: Watch | None = None, numbers: Numbers | None = None
    ) -> None:
        super().__init__(KEYED_HANDLERS if compiling() else _EAGER_HANDLERS)
        self.key = key
        self.watch = watch
        self.numbers = Counted() if numbers is None else numbers
        self.base: Tensor | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        watch = self.watch
        if watch is not None and watch.looks and (watch.mapped or not torch.is_grad_enabled()):
            watch.saw(self)
        if watch is not None and func is custom_function_call and _PLAIN_TENSORS.issuperset(types):
            # torch runs a Function under a transform outside of all modes.
            with self:
                return run_custom(*args, **(kwargs or {}))
        return self.run(func, args, kwargs)

    def again(self, numbers: Numbers, code: CodeType) -> Keyed:
        """A context for the backward pass that draws these numbers from the same key.

        Args:
            numbers: The numbers.
            code: The code that enters the context.
        """
        context = Keyed(self.key, Watch(code, looks=True, keeps_graphs=True), numbers)
        context.base = self.base
        return context

    def key_for(self, func: Any) -> Tensor:
        """The next key in the sequence, for one call of ``func``.

        Raises:
            ValueError: The context has no key.
        """
        if self.key is None:
            raise ValueError(
                f"{function_name(func)} is random, and there is no key to draw from"
                f"{calling_line()}. Call the module through l0func.gated with a key, or put it "
                "in eval mode before l0func.make_functional."
            )
        if self.base is None:
            self.base = random.fold_in(self.key, _MODULE_STREAM)
        number = self.numbers.next(func)
        if self.watch is not None:
            self.watch.drew(self, func, number)
        return random.fold_in(self.base, number)

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
        if is_dtensor(input):
            raise ValueError(
                f"{function_name(func)} draws for whole activations, and got a DTensor, "
                f"{shown_layout(input)}{calling_line()}. Put dropout behind the row-parallel "
                "layer, or where activations are plain tensors."
            )
        varying = tuple(input.shape[:end])
        ones = (1,) * (input.dim() - len(varying))
        y = draw(input, p, varying + ones, mode.uniform(func))
        return input.copy_(y) if inplace else y

    return handler


def _with_train(handler: Callable[..., Any], inplace: bool = False) -> Callable[..., Any]:
    """The same handler for a function in the torch namespace; its flag is named ``train``."""

    def with_train(mode: Keyed, func: Any, input: Tensor, p: float, train: bool) -> Tensor:
        return handler(mode, func, input, p, train, inplace)

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
        # The same function, and vmap has a rule for it.
        return F.leaky_relu(input, (lower + upper) / 2, inplace)
    y = draws.rrelu(input, lower, upper, mode.uniform(func))
    return input.copy_(y) if inplace else y


def _torch_rrelu(inplace: bool) -> Callable[..., Tensor]:
    """A handler for torch.rrelu or torch.rrelu_, which take a generator."""

    def handler(
        mode: Keyed,
        func: Any,
        input: Tensor,
        lower: float = 1 / 8,
        upper: float = 1 / 3,
        training: bool = False,
        generator: Any = None,
    ) -> Tensor:
        return _rrelu(mode, func, input, lower, upper, training, inplace)

    return handler


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


def _lacks_memory(replacement: Replacement, args: tuple[Any, ...]) -> bool:
    """Whether a recurrent network on a card is inside torch.func, where cuDNN cannot read it."""
    if not replacement.packs or not args[0].is_cuda:
        return False
    leaves, _ = untyped.utils._pytree.tree_flatten(args)
    is_wrapped = untyped._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(leaf, Tensor) and is_wrapped(leaf) for leaf in leaves)


def _keyed_dropout(replacement: Replacement) -> Callable[..., Any]:
    """A handler for attention or a recurrent network: written out if dropout is active."""

    def handler(mode: Keyed, func: Any, *args: Any, **named: Any) -> Any:
        if not replacement.applies_dropout(args, named):
            if not _lacks_memory(replacement, args):
                return func(*args, **named)
            found = as_autocast(func, replacement.run, args, named)
            return func(*args, **named) if found is NotImplemented else found
        if replacement.packs and is_packed(args):
            raise ValueError(
                f"{function_name(func)} has no keyed dropout between layers for packed sequences; "
                "pad them instead."
            )
        written_out = partial(replacement.function, dropout=mode.dropout(func))
        return as_autocast(func, written_out, args, named)

    return handler


def _backward_inside(mode: Keyed, func: Any, output: Any, *args: Any, **named: Any) -> Any:
    """A backward pass inside the call.

    Inside another backward pass it keeps its graph, because masked weights share theirs: the next
    block in reentrant checkpointing needs the same masks.
    """
    if mode.watch is not None:
        mode.watch.settle(output, mode)
        if mode.watch.keeps_graphs and len(args) <= _RETAINS[func]:
            named["retain_graph"] = True
    return func(output, *args, **named)


_DROPOUTS: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout(draws.dropout, None),
    F.dropout1d: _dropout(draws.dropout, -1),
    F.dropout2d: _dropout(draws.dropout, 2),
    F.dropout3d: _dropout(draws.dropout, -3),
    F.alpha_dropout: _dropout(draws.alpha_dropout, None, by_default=False),
    F.feature_alpha_dropout: _dropout(draws.alpha_dropout, 2, by_default=False),
}
for _name, _handler in {
    "dropout": _dropout(draws.dropout, None),
    "feature_dropout": _dropout(draws.dropout, 2),
    "alpha_dropout": _dropout(draws.alpha_dropout, None),
    "feature_alpha_dropout": _dropout(draws.alpha_dropout, 2),
}.items():
    _DROPOUTS[getattr(torch, _name)] = _with_train(_handler)
    _DROPOUTS[getattr(torch, f"{_name}_")] = _with_train(_handler, inplace=True)
_DRAW_HANDLERS: dict[Any, Callable[..., Any]] = {
    F.rrelu: _rrelu,
    torch.rrelu: _torch_rrelu(inplace=False),
    torch.rrelu_: _torch_rrelu(inplace=True),
    F.gumbel_softmax: _gumbel_softmax,
    **PLAIN_DRAWS,
}
_KEYED_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    func: _keyed_dropout(replacement)
    for func, replacement in REPLACEMENTS.items()
    if replacement.has_dropout is not None
}
# For each function the position of retain_graph after the output.
_RETAINS: dict[Any, int] = {
    torch.autograd.backward: 1,
    torch.autograd.grad: 2,
    TENSOR.backward: 1,
}
_BACKWARDS: dict[Any, Callable[..., Any]] = dict.fromkeys(_RETAINS, _backward_inside)
KEYED_HANDLERS: dict[Any, Callable[..., Any]] = {
    **WRITE_HANDLERS,
    **ROW_WRITE_HANDLERS,
    **FRESH_HANDLERS,
    **READ_HANDLERS,
    **_BACKWARDS,
    **REFUSED_HANDLERS,
    **_DROPOUTS,
    **_DRAW_HANDLERS,
    **_KEYED_REPLACEMENTS,
}
_EAGER_HANDLERS: dict[Any, Callable[..., Any]] = {**KEYED_HANDLERS, **WATCH_HANDLERS}
