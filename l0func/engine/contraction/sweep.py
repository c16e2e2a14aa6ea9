"""The contractions as one differentiable function of the gates and of all factors.

:mod:`.product` calls it. Every torch transform applies to it, also nested: ``grad``, ``jvp``,
``vmap`` and ``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from l0func.engine.contraction.operator import Constants, Sweep, computed, from_graph, in_graph
from l0func.internal.below_vmap import MappedDims, by_rule
from l0func.internal.compiler_import import graph_node
from l0func.internal.context import compiling
from l0func.internal.forward_mode import forward_rule
from l0func.kernels import by_torch
from l0func.kernels.backends import kernels_for
from l0func.kernels.contraction import Contraction, Kind, Operands, Output


def sweep(
    contraction: Contraction,
    output: Output,
    keys: Tensor,
    log_alpha: Tensor,
    a: Tensor | None,
    x: Tensor | None,
    g: Tensor | None,
) -> Tensor:
    r"""One contraction; its masks are drawn while it runs.

    .. math:: S_k = \sum g_{bro}\, x_{bri}\, A_{oi}\, z^{(k)}_{boi}

    The derivatives of a product with a mask form one family. The derivative in a factor contracts
    the others; the derivative in the location raises k, the order of the mask's derivative, by 1.

    Args:
        contraction: The sizes, and a distribution for z.
        output: The factor to compute, ``"y"`` (in place of g), ``"x"`` or ``"a"``, and k.
        keys: ``(B, 2)``.
        log_alpha: ``(O, gates of a weight row)``.
        a: The weight, ``(O, I)``.
        x: ``(B, R, I)``, or images.
        g: ``(B, R, O)``, or images.

    Returns:
        The computed factor.
    """
    if compiling():
        constants = in_graph(Sweep(contraction, (output,)))
        return _traced(constants, keys, log_alpha, a, x, g)
    return _apply(Sweep(contraction, (output,)), keys, log_alpha, a, x, g)[0]


@graph_node
def _traced(constants: Constants, *tensors: Tensor | None) -> Tensor:
    # The compiler's front end cannot trace a Function with rules for jvp and vmap. It takes this
    # function as one node, and the later stages trace into that.
    return _recorded(from_graph(constants), *tensors)[0]


# The differentiable function.

FACTORS: tuple[Kind, ...] = ("a", "x", "y")
"""The factors, ordered like the arguments; ``y`` stands for g, of the same shape."""

Factors = dict[str, Any]
"""A tensor or None for each factor."""


def _factors_by_name(factors: Sequence[Any]) -> Factors:
    return dict(zip(FACTORS, factors, strict=True))


def _apply(sweep: Sweep, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Run a sweep; the tensors are keys, locations and factors."""

    def rule(size: int, dims: MappedDims, *batches: Any) -> Sequence[Tensor]:
        return _over_batch(_apply, sweep, size, dims, batches)

    return tuple(by_rule(partial(_plain_or_recorded, sweep), rule, *tensors))


def _plain_or_recorded(sweep: Sweep, *tensors: Any) -> tuple[Tensor, ...]:
    keys, *factors = tensors
    if kernels_for(*[t for t in tensors if t is not None]) is by_torch:
        return _recorded(sweep, *tensors)
    # Nothing differentiates here, and torch takes longer to apply a Function than to find out.
    return tuple(computed(sweep, keys, Operands(*factors)))


def _recorded(sweep: Sweep, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    function: Any = _Sweep
    return function.apply(sweep, *tensors)


class _Sweep(Function):
    @staticmethod
    def forward(*args: Any) -> Any:
        sweep, keys, *factors = args
        return tuple(computed(sweep, keys, Operands(*factors)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.sweep, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *output_grads: Any) -> Any:
        _, _, gates_needed, *factors_needed = ctx.needs_input_grad
        pairs = zip(FACTORS, factors_needed, strict=True)
        needed: list[Kind] = [name for name, is_needed in pairs if is_needed]
        grads: dict[str, Tensor] = {}
        for output, output_grad in zip(ctx.sweep.outputs, output_grads, strict=True):
            if output_grad is None:
                continue
            for name, grad in _grads_from(ctx, output, output_grad, needed, gates_needed):
                grads[name] = grads[name] + grad if name in grads else grad
        return None, None, *(grads.get(name) for name in ("gates", *FACTORS))

    @forward_rule
    def jvp(ctx: Any, saved: Sequence[Any], *tangents: Any) -> Any:
        keys, log_alpha, *factors = saved
        _, _, gates_moved, *factors_moved = tangents
        given = _factors_by_name(factors)
        moved = _factors_by_name(factors_moved)
        results: list[Tensor | None] = []
        for output in ctx.sweep.outputs:
            sweep = replace(ctx.sweep, outputs=(output,))
            terms = _factor_terms(sweep, output, keys, log_alpha, given, moved)
            if gates_moved is not None:
                terms.append(_gate_term(sweep, output, keys, log_alpha, given, gates_moved))
            results.append(sum(terms[1:], terms[0]) if terms else None)
        return tuple(results)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        sweep, *tensors = args
        results = _over_batch(_recorded, sweep, info.batch_size, in_dims[1:], tensors)
        return results, (0,) * len(results)


Run = Callable[..., tuple[Tensor, ...]]
"""A function of a sweep and its tensors."""


def _over_batch(
    run: Run, sweep: Sweep, size: int, dims: MappedDims, tensors: Sequence[Any]
) -> tuple[Tensor, ...]:
    """The rule for vmap; results have the batch in front."""
    mapped = [dim is not None for dim in dims]
    pairs = zip(tensors, dims, strict=True)
    in_front = [t if dim is None else t.movedim(dim, 0) for t, dim in pairs]
    _, maps_gates, maps_weight, *_ = mapped
    sums_examples = any(output.kind == "a" for output in sweep.outputs)
    if maps_gates or maps_weight or sums_examples:
        return _one_by_one(run, sweep, size, in_front, mapped)
    return _as_one_batch(run, sweep, size, in_front, mapped)


def _grads_from(
    ctx: Any, output: Output, output_grad: Tensor, needed: Sequence[Kind], gates_needed: bool
) -> Iterator[tuple[str, Tensor]]:
    """The gradients that flow back from one output, each with its factor's name or ``"gates"``.

    Args:
        ctx: The function's context.
        output: The output.
        output_grad: The gradient of the loss in it.
        needed: The factors that need a gradient.
        gates_needed: Whether the locations need one.
    """
    keys, log_alpha, *factors = ctx.saved_tensors
    # The output's gradient takes the place of the factor that the sweep computed.
    given: Factors = _factors_by_name(factors) | {output.kind: output_grad}
    wanted = [Output(kind, output.order) for kind in needed if kind != output.kind]
    names: list[str] = [result.kind for result in wanted]
    if gates_needed:
        names.append("gates")
        wanted.append(Output("a", output.order + 1))
    if not wanted:
        return
    sweep = replace(ctx.sweep, outputs=tuple(wanted))
    results = _swept_again(sweep, keys, log_alpha, given)
    for name, found in zip(names, results, strict=True):
        if name == "gates":
            yield name, _to_gates(given["a"] * found, log_alpha, sweep.contraction.repeat)
        else:
            yield name, found


def _factor_terms(
    sweep: Sweep, output: Output, keys: Tensor, log_alpha: Tensor, given: Factors, moved: Factors
) -> list[Tensor]:
    """For each factor that moves: the change of an output with it."""
    terms: list[Tensor] = []
    for name, tangent in moved.items():
        if tangent is not None and name != output.kind:
            local = given | {output.kind: None, name: tangent}
            terms.append(_swept_again(sweep, keys, log_alpha, local)[0])
    return terms


def _gate_term(
    sweep: Sweep, output: Output, keys: Tensor, log_alpha: Tensor, given: Factors, moved: Tensor
) -> Tensor:
    """The change of an output with the locations: one more derivative of the masks."""
    spread = _to_entries(moved, sweep.contraction.repeat)
    steeper = replace(sweep, outputs=(Output(output.kind, output.order + 1),))
    if output.kind == "a":
        return _swept_again(steeper, keys, log_alpha, given | {"a": None})[0] * spread
    local = given | {output.kind: None, "a": given["a"] * spread}
    return _swept_again(steeper, keys, log_alpha, local)[0]


def _one_by_one(
    run: Run, sweep: Sweep, count: int, tensors: list[Any], mapped: list[bool]
) -> tuple[Tensor, ...]:
    """A sweep for each model: for mapped weights or gates, and for sums over examples."""
    results: list[tuple[Tensor, ...]] = []
    for i in range(count):
        pairs = zip(tensors, mapped, strict=True)
        own = [t[i] if is_mapped else t for t, is_mapped in pairs]
        results.append(run(sweep, *own))
    return tuple(torch.stack(each) for each in zip(*results, strict=True))


def _as_one_batch(
    run: Run, sweep: Sweep, count: int, tensors: list[Any], mapped: list[bool]
) -> tuple[Tensor, ...]:
    """One sweep for mapped examples with one weight: the mapped dimension joins the batch."""
    keys, log_alpha, a, x, g = tensors
    maps_keys, _, _, maps_x, maps_g = mapped
    all_keys = _joined_to_batch(keys, count, maps_keys)
    all_x = _joined_to_batch(x, count, maps_x)
    all_g = _joined_to_batch(g, count, maps_g)
    merged = run(sweep, all_keys, log_alpha, a, all_x, all_g)
    batch = merged[0].shape[0] // count
    return tuple(t.reshape(count, batch, *t.shape[1:]) for t in merged)


def _joined_to_batch(t: Tensor | None, count: int, is_mapped: bool) -> Tensor | None:
    """The first two dimensions as one; without a mapped dimension, the tensor ``count`` times."""
    if t is None:
        return None
    wide = t if is_mapped else t.expand(count, *t.shape)
    return wide.flatten(0, 1)


def _swept_again(
    sweep: Sweep, keys: Tensor, log_alpha: Tensor, given: Factors
) -> tuple[Tensor, ...]:
    return _apply(sweep, keys, log_alpha, *(given[name] for name in FACTORS))


def _to_gates(entries: Tensor, log_alpha: Tensor, repeat: int) -> Tensor:
    """For each gate, the sum over its entries."""
    if repeat == 1:
        return entries
    return entries.reshape(*log_alpha.shape, repeat).sum(-1)


def _to_entries(gates: Tensor, repeat: int) -> Tensor:
    """For each entry, the value of its gate."""
    return gates if repeat == 1 else gates.repeat_interleave(repeat, dim=-1)
