"""Operations that move elements about, combine them one by one, or sum them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0func.internal import tree
from l0func.tracing.call import Call, Followed, Transfer
from l0func.tracing.products import of_values, refuse
from l0func.tracing.trace import AbstractValue, Weight
from l0func.tracing.units import NONE, varies

unknown = refuse


def pointwise(followed: Followed, call: Call) -> None:
    """Elements at the same place: their units are one."""
    operands = list(call.tensors())
    (out,) = call.outputs[:1]
    weights = [w for t in operands if (w := followed.weight(t)) is not None]
    if weights and _only_constants(followed, operands):
        _combine_weights(followed, call, weights)
        return
    labels = _combined(followed, call, [t for t in operands if t.dim() <= out.dim()], out)
    if call.name.endswith("_") and (before := followed.value_of(call.args[0])) is not None:
        labels = _written(before, labels)
    for output in call.outputs:
        followed.set(output, labels)


def _only_constants(followed: Followed, operands: Sequence[Tensor]) -> bool:
    """Whether everything but parameters is a number that forward made."""
    return all(
        followed.weight(t) is not None
        or (t.numel() == 1 and bool((followed.labels(t) == NONE).all()))
        for t in operands
    )


def _combine_weights(followed: Followed, call: Call, weights: Sequence[Weight]) -> None:
    first = weights[0]
    (out,) = call.outputs[:1]
    same = all(w.path == first.path for w in weights) and tuple(
        first.coordinates[0].shape
    ) == tuple(out.shape)
    if same and all(
        torch.equal(a, b)
        for w in weights[1:]
        for a, b in zip(w.coordinates, first.coordinates, strict=True)
    ):
        followed.set(out, first)
        return
    if all(len(followed.trace.shapes[w.path]) == 1 for w in weights):
        # Vectors are cheap to follow entry by entry, and often are what scales and shifts: w * g +
        # b.
        labels = _combined(followed, call, list(call.tensors()), out)
        followed.set(out, labels)
        return
    refuse(followed, call)


def _combined(followed: Followed, call: Call, operands: Sequence[Tensor], out: Tensor) -> Tensor:
    labels = [_lifted(followed.labels(t), out.dim()) for t in operands]
    along = [d for d in range(out.dim()) if any(varies(of, d) for of in labels)]
    result: Tensor | None = None
    for of in labels:
        if not bool((of >= 0).any()):
            continue
        if any(of.shape[d] != out.shape[d] for d in along):
            # One value for many units: it is there whichever of them go.
            if not _is_input(followed, of):
                followed.units.fix(of, f"they are spread over other units by {call.name!r}")
            continue
        full = of.expand(out.shape)
        if result is not None:
            followed.units.tie(result, full)
        result = full if result is None else torch.where(result >= 0, result, full)
    if result is None:
        fallback = [of for of in labels if bool((of >= 0).any())]
        return (fallback[0] if fallback else torch.full((1,) * out.dim(), NONE)).expand(out.shape)
    return result


def _is_input(followed: Followed, labels: Tensor) -> bool:
    roots = followed.units.roots(labels)
    return bool((roots == 0).all())


def _lifted(labels: Tensor, dims: int) -> Tensor:
    return (
        labels.reshape(*(1,) * (dims - labels.dim()), *labels.shape)
        if labels.dim() < dims
        else labels
    )


def _written(before: AbstractValue, labels: Tensor) -> Tensor:
    """Labels of a tensor after it was written in place: views of it see them too."""
    if isinstance(before, Weight):
        return labels
    if 0 in before.stride() or before.shape != labels.shape:
        # What repeats itself is never written into, and need not be a copy.
        return labels if 0 in labels.stride() else labels.clone()
    return before.copy_(labels)


def moved(followed: Followed, call: Call) -> None:
    """An operation that puts elements elsewhere, applied to what is known of each."""
    source = call.args[0]
    state = followed.value_of(source)
    if state is None or call.outputs[0].is_complex() or source.is_complex():
        refuse(followed, call)
        return
    if isinstance(state, Tensor):
        made = _as_list(_moved(call, state))
        for output, labels in zip(call.outputs, made, strict=True):
            followed.set(output, labels)
        return
    coordinates = [_as_list(_moved(call, c)) for c in state.coordinates]
    for output, *of_each in zip(call.outputs, *coordinates, strict=True):
        followed.set(output, Weight(state.path, tuple(of_each)))


def _moved(call: Call, labels: Tensor) -> Any:
    if call.name in ("view", "_unsafe_view"):
        # What is known of a tensor may be laid out in memory otherwise than the tensor.
        return labels.reshape(call.args[1])
    # Indices may be on another device than what is known of the tensor.
    return call.func(labels, *tree.map_tensors(lambda t: t.cpu(), call.args[1:]), **call.kwargs)


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def same(followed: Followed, call: Call) -> None:
    """A copy, a cast, a detached alias: what is known of it stays."""
    (out,) = call.outputs
    state = followed.value_of(call.args[0])
    if state is not None:
        followed.set(out, state)


def _copy(followed: Followed, call: Call) -> None:
    target, source = call.args[:2]
    labels = followed.labels(source).expand(target.shape)
    before = followed.value_of(target)
    followed.set(call.outputs[0], labels.clone() if before is None else _written(before, labels))


def _made(followed: Followed, call: Call) -> None:
    """A new tensor as large as another: it takes whatever size that has."""
    for output in call.outputs:
        followed.set(output, torch.full(tuple(output.shape), NONE))


@of_values
def _glu(followed: Followed, call: Call, labels: Tensor) -> None:
    halves = labels.chunk(2, call.args[1] if len(call.args) > 1 else -1)
    followed.units.tie(*halves)
    followed.set(call.outputs[0], halves[0])


def _joined(followed: Followed, call: Call) -> None:
    """Concatenation and stacking."""
    tensors: list[Tensor] = list(call.args[0])
    if all(followed.weight(t) is not None and t.dim() > 1 for t in tensors):
        refuse(followed, call)
        return
    labels = call.func([followed.labels(t) for t in tensors], *call.args[1:], **call.kwargs)
    followed.set(call.outputs[0], labels)


@of_values
def _pad(followed: Followed, call: Call, labels: Tensor) -> None:
    pads: list[int] = list(call.args[1])
    dims = [labels.dim() - 1 - i // 2 for i, p in enumerate(pads) if p]
    if any(varies(labels, d) for d in dims):
        beside = followed.units.fixed(
            1, "they are padded along the dimension in which they lie, to a fixed size"
        )
        padded = torch.constant_pad_nd(labels, pads, int(beside))
    else:
        index = tuple(slice(0, 1) if d in dims else slice(None) for d in range(labels.dim()))
        padded = labels[index].expand(call.outputs[0].shape)
    followed.set(call.outputs[0], padded)


@of_values
def reduced(followed: Followed, call: Call, labels: Tensor) -> None:
    """Sums, means, maxima and the like over dimensions."""
    dims, keep = _dimensions(call, labels.dim()), bool(call.argument("keepdim", False))
    if any(varies(labels, d) for d in dims):
        followed.units.fix(labels, f"the operation {call.name!r} runs over them")
    left = labels.amax(dims, keepdim=keep) if dims else labels
    for output in call.outputs:
        followed.set(output, left.expand(output.shape))


@of_values
def mixed(followed: Followed, call: Call, labels: Tensor) -> None:
    """A softmax, a sort, a running sum: each element depends on all others along a dimension."""
    dims = _dimensions(call, labels.dim())
    for dim in dims:
        if varies(labels, dim):
            followed.units.fix(labels, f"the operation {call.name!r} runs over them")
    for output in call.outputs:
        one = labels if output.shape == labels.shape else labels.narrow(dims[0], 0, 1)
        followed.set(output, one.expand(output.shape))


def _dimensions(call: Call, dims: int) -> list[int]:
    given = call.argument("dim")
    if given is None or given == []:
        named = any(a.name == "dim" for a in call.func._schema.arguments)
        # topk and sort count from the last dimension unless they are told otherwise; a reduction
        # takes all.
        return [dims - 1] if named and call.name in ("topk", "sort") else list(range(dims))
    return [d % dims for d in ([given] if isinstance(given, int) else given)] if dims else []


_REDUCTIONS = (
    "sum mean amax amin max min var std var_mean std_mean prod argmax argmin any all logsumexp "
    "linalg_vector_norm norm median "
    "mode count_nonzero aminmax nansum"
)
_ALONG = "_softmax _log_softmax _safe_softmax softmax cumsum cumprod cummax cummin logcumsumexp sort topk kthvalue"
_MOVES = (
    "repeat flip roll index_select gather index _unsafe_view _unsafe_index take_along_dim tril "
    "triu pixel_shuffle "
    "pixel_unshuffle"
)
_SAME = "clone _to_copy detach alias lift_fresh contiguous fill zero _reshape_alias_copy"
_POINTWISE = (
    "silu hardtanh hardswish masked_fill leaky_relu elu prelu _prelu_kernel softplus hardsigmoid "
    "log_sigmoid_forward mish "
    "threshold polar celu selu relu6 rrelu_with_noise where"
)

FACTORIES = frozenset(
    "new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like new_empty_strided".split()
)
"""What makes a tensor of another's size, and nothing else of it."""

TRANSFERS: dict[str, Transfer] = {
    **dict.fromkeys(FACTORIES, _made),
    "glu": _glu,
    **dict.fromkeys(_REDUCTIONS.split(), reduced),
    **dict.fromkeys(_ALONG.split(), mixed),
    **dict.fromkeys(_MOVES.split(), moved),
    **dict.fromkeys(_SAME.split(), same),
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    "copy": _copy,
    "cat": _joined,
    "stack": _joined,
    "constant_pad_nd": _pad,
}
