"""The contractions as differentiable functions of all their factors and of the gates, closed under
every transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.distributions import GateDistribution
from l0func.distributions.identities import identities
from l0func.engine.contraction.chunks import Contraction, Output
from l0func.engine.contraction.run import Operands, run, x_shape
from l0func.internal.context import compiles, compiling, forward_rule
from l0func.internal.untyped import untyped
from l0func.kernels.choice import kernel_in_use
from l0func.kernels.unfold import Unfold

Static = tuple[Any, ...]
"""A plan and a choice of kernel as nested tuples of constants, which a compiler's graph can hold.
"""


def sweep(
    plan: Contraction,
    output: Output,
    keys: Tensor,
    log_alpha: Tensor,
    a: Tensor | None,
    x: Tensor | None,
    g: Tensor | None,
) -> Tensor:
    r"""One contraction of :math:`S_k = \sum g_{bro}\, x_{bri}\, A_{oi}\, z^{(k)}_{boi}` with masks
    drawn as it goes.

    Source: the derivatives of a product with a mask, all of one family: each factor's slope is the
    contraction of the others, and the slope in the location raises k by one.

    Args:
        plan: The sizes, and the distribution of z.
        output: Which factor is the result, ``"y"`` (in place of g), ``"x"`` or ``"a"``, and k.
        keys: ``(B, 2)``.
        log_alpha: ``(G, O, gates of a row)``.
        a: The weight, ``(G, O, I)``.
        x: ``(B, R, I)``, or images.
        g: ``(B, G, R, O)``.

    Returns:
        The shape of the factor that is the result.
    """
    static = _static(plan, kernel_in_use() == "compiled")
    outputs = ((output.kind, output.order),)
    call = _traced if compiling() else _apply
    return call(static, outputs, keys, log_alpha, a, x, g)[0]


def _static(plan: Contraction, compiled: bool) -> Static:
    unfold = None if plan.unfold is None else astuple(plan.unfold)
    return (plan.distribution.identity, plan.shape, plan.repeat, plan.first, unfold, compiled)


@cache
def _plan(static: Static) -> tuple[Contraction, bool]:
    identity, shape, repeat, first, unfold, compiled = static
    return Contraction(
        identities.find(identity, GateDistribution),
        shape,
        repeat,
        first,
        None if unfold is None else Unfold(*unfold),
    ), compiled


def _apply(
    static: Static, outputs: Sequence[tuple[str, int]], *tensors: Tensor | None
) -> tuple[Tensor, ...]:
    function: Any = _Sweep
    return function.apply(_concrete(static), tuple(outputs), *tensors)


def _concrete(value: Any) -> Any:
    # A compiler may leave sizes open; those of a weight are part of the plan.
    if isinstance(value, tuple):
        return tuple(_concrete(item) for item in cast("tuple[Any, ...]", value))
    return int(value) if isinstance(value, torch.SymInt) else value


@untyped.compiler.allow_in_graph
def _traced(
    static: Static, outputs: Sequence[tuple[str, int]], *tensors: Tensor | None
) -> tuple[Tensor, ...]:
    # The compiler would not follow a Function with rules for jvp and vmap; those who trace its
    # graph do.
    return _apply(static, outputs, *tensors)


def _computed(
    static: str,
    outputs: str,
    keys: Tensor,
    log_alpha: Tensor,
    a: Tensor | None,
    x: Tensor | None,
    g: Tensor | None,
) -> list[Tensor]:
    plan, compiled = _plan(_STATIC[static])
    return run(plan, _outputs(outputs), keys, Operands(log_alpha, a, x, g), compiled)


def _empty(
    static: str,
    outputs: str,
    keys: Tensor,
    log_alpha: Tensor,
    a: Tensor | None,
    x: Tensor | None,
    g: Tensor | None,
) -> list[Tensor]:
    plan, _ = _plan(_STATIC[static])
    windows = 1 if plan.unfold is None else torch.Size(plan.unfold.windows).numel()
    rows = g.shape[2] if g is not None else x.shape[1] * windows if x is not None else 0
    shapes = {
        "y": (keys.shape[0], plan.shape[0], rows, plan.shape[1]),
        "x": x_shape(plan, keys.shape[0], rows),
        "a": plan.shape,
    }
    return [log_alpha.new_empty(shapes[output.kind]) for output in _outputs(outputs)]


def _outputs(text: str) -> list[Output]:
    return [Output(word[0], int(word[1:])) for word in text.split()]


_STATIC: dict[str, Static] = {}


def _operator() -> Callable[..., list[Tensor]]:
    # Opaque to a compiler around it, which would otherwise unroll the chunks, or hold all masks.
    if not compiles():
        return _computed
    library: Any = torch.library
    schema = "(str static, str outputs, Tensor keys, Tensor log_alpha, Tensor? a, Tensor? x, Tensor? g) -> Tensor[]"
    operator = library.custom_op("l0func::sweep", _computed, mutates_args=(), schema=schema)
    operator.register_fake(_empty)
    return operator


_swept = _operator()


class _Sweep(Function):
    """Several contractions of one set of masks."""

    @staticmethod
    def forward(*args: Any) -> Any:
        static, outputs, *tensors = args
        name = repr(static)
        _STATIC[name] = static
        return tuple(_swept(name, " ".join(f"{kind}{order}" for kind, order in outputs), *tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.static, ctx.outputs, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        keys, log_alpha, *factors = ctx.saved_tensors
        needed = dict(zip(("a", "x", "y"), ctx.needs_input_grad[4:], strict=True))
        total: dict[str, Tensor | None] = dict.fromkeys(("la", "a", "x", "y"))
        for (kind, order), slope in zip(ctx.outputs, slopes, strict=True):
            if slope is None:
                continue
            # The slope takes the place of the factor that came out.
            given = dict(zip(("a", "x", "y"), factors, strict=True)) | {kind: slope}
            wanted = [(other, order) for other in given if other != kind and needed[other]]
            if ctx.needs_input_grad[3]:
                wanted.append(("a", order + 1))
            if not wanted:
                continue
            parts = _apply(ctx.static, wanted, keys, log_alpha, given["a"], given["x"], given["y"])
            for (other, k), part in zip(wanted, parts, strict=True):
                if k > order:
                    total["la"] = _sum(total["la"], _to_gates(given["a"] * part, log_alpha))
                else:
                    total[other] = _sum(total[other], part)
        return None, None, None, total["la"], total["a"], total["x"], total["y"]

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Any], *tangents: Any) -> Any:
        keys, log_alpha, *factors = saved
        moved = dict(zip(("a", "x", "y"), tangents[4:], strict=True))
        results: list[Tensor | None] = []
        for kind, order in ctx.outputs:
            given: dict[str, Any] = dict(zip(("a", "x", "y"), factors, strict=True)) | {kind: None}
            total: Tensor | None = None
            for other, tangent in moved.items():
                if tangent is not None and other != kind:
                    local = given | {other: tangent}
                    total = _sum(total, _one(ctx.static, (kind, order), keys, log_alpha, local))
            if tangents[3] is not None:
                spread = _to_entries(tangents[3], _plan(ctx.static)[0].repeat)
                local = given if kind == "a" else given | {"a": given["a"] * spread}
                part = _one(ctx.static, (kind, order + 1), keys, log_alpha, local)
                total = _sum(total, part * spread if kind == "a" else part)
            results.append(total)
        return tuple(results)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        static, outputs, *tensors = args
        dims = in_dims[2:]
        n = info.batch_size
        tensors = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
        _, mapped_la, mapped_a, *_ = (d is not None for d in dims)
        if mapped_la or mapped_a or any(kind == "a" for kind, _ in outputs):
            # A weight, or a sum over rows, of each own: models side by side, one after another.
            each = [
                _apply(
                    static,
                    outputs,
                    *(t if d is None else t[i] for t, d in zip(tensors, dims, strict=True)),
                )
                for i in range(n)
            ]
            return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(
                outputs
            )
        keys, log_alpha, a, x, g = (
            t if t is None or d is not None or number in (1, 2) else t.expand(n, *t.shape)
            for number, (t, d) in enumerate(zip(tensors, dims, strict=True))
        )
        flat = [None if t is None else t.flatten(0, 1) for t in (keys, x, g)]
        merged = _apply(static, outputs, flat[0], log_alpha, a, flat[1], flat[2])
        return tuple(t.reshape(n, t.shape[0] // n, *t.shape[1:]) for t in merged), (0,) * len(
            outputs
        )


def _one(
    static: Static, output: tuple[str, int], keys: Tensor, log_alpha: Tensor, given: dict[str, Any]
) -> Tensor:
    return _apply(static, (output,), keys, log_alpha, given["a"], given["x"], given["y"])[0]


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _to_gates(entries: Tensor, log_alpha: Tensor) -> Tensor:
    """The sum over the entries of each gate."""
    repeat = entries.shape[-1] // log_alpha.shape[-1]
    return entries if repeat == 1 else entries.reshape(*log_alpha.shape, repeat).sum(-1)


def _to_entries(gates: Tensor, repeat: int) -> Tensor:
    return gates if repeat == 1 else gates.repeat_interleave(repeat, dim=-1)
