"""Products: where units are made, and where they are read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l0func.internal.untyped import loose
from l0func.tracing.call import Call, Followed, Transfer
from l0func.tracing.trace import Reader, Weight, dimension_of
from l0func.tracing.units import NONE, varies


def _mm(followed: Followed, call: Call) -> None:
    followed.set(call.outputs[0], product(followed, call.args[0], call.args[1]))


def _addmm(followed: Followed, call: Call) -> None:
    labels = product(followed, call.args[1], call.args[2], call.args[0])
    followed.set(call.outputs[0], joined(followed, [call.args[0]], labels))


def _mv(followed: Followed, call: Call) -> None:
    matrix, vector = call.args[-2:]
    if followed.weight(vector) is not None or followed.weight(matrix) is not None:
        refuse(followed, call)
        return
    labels = _of_activations(
        followed, followed.labels(matrix), followed.labels(vector).unsqueeze(-1)
    )
    followed.set(call.outputs[0], labels.squeeze(-1))


def _linear(followed: Followed, call: Call) -> None:
    weight: Tensor = call.args[1]
    bias: Tensor | None = call.argument("bias")
    if followed.weight(weight) is None or weight.dim() != 2:
        refuse(followed, call)
        return
    labels = _read_by(followed, call.args[0], followed.weight(weight), 1, 0, bias)
    followed.set(call.outputs[0], labels if bias is None else joined(followed, [bias], labels))


def product(followed: Followed, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Labels of the product of two matrices, or batches of them, ``(*, n, k)`` and ``(*, k, m)``,
    before a bias is added.
    """
    left, right = followed.weight(a), followed.weight(b)
    if left is not None and right is not None:
        return _product_of_weights(followed, left, right, (*a.shape[:-1], b.shape[-1]))
    if right is not None:
        return _read_by(
            followed, a, _one_of_batch(followed, right), b.dim() - 2, b.dim() - 1, bias
        )
    if left is not None:
        one = _one_of_batch(followed, left)
        labels = _read_by(
            followed, b.mT, one, a.dim() - 1, a.dim() - 2, None, followed.labels(b).mT
        )
        return labels.mT
    return _of_activations(followed, followed.labels(a), followed.labels(b))


def _read_by(
    followed: Followed,
    x: Tensor,
    weight: Weight | None,
    reads: int,
    owns: int,
    bias: Tensor | None,
    labels: Tensor | None = None,
) -> Tensor:
    """Labels of ``x`` (or those given) times a weight whose dimensions ``reads`` and ``owns`` are
    summed over and kept.
    """
    labels = followed.labels(x) if labels is None else labels
    assert weight is not None
    rows = labels.reshape(-1, labels.shape[-1])
    kept = weight.coordinates[0].shape[owns]
    entries = max(weight.coordinates[0].numel(), 1)
    followed.trace.count(weight, rows.numel() * kept // entries)
    if varies(rows, 0) and not varies(rows, 1):
        # A product along another dimension than the units': each row keeps its unit, and the
        # weight serves all.
        for dim in (reads, owns):
            fixed = followed.units.fixed(
                1, f"{weight.path!r} works along another dimension than its input's units"
            )
            followed.trace.own(weight, dim, fixed.expand(weight.coordinates[0].shape[dim]))
        return labels[..., :1].expand(*labels.shape[:-1], kept)
    columns = rows.amax(0) if len(rows) else rows.new_full(rows.shape[1:], NONE)
    followed.units.tie(rows, columns)
    followed.trace.read(weight, reads, columns)
    _log_reader(followed, weight, reads, x, x.reshape(rows.shape), bias, border=False)
    made = followed.units.fresh(kept)
    followed.trace.own(weight, owns, made)
    return made.expand(*labels.shape[:-1], kept)


def _log_reader(
    followed: Followed,
    weight: Weight,
    dim: int,
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    border: bool,
) -> None:
    found = dimension_of(weight, dim)
    of_bias = followed.weight(bias)
    if found is not None:
        path = None if of_bias is None else of_bias.path
        followed.trace.readers.append(
            Reader(weight.path, *found, values, path, border, followed.steady(x))
        )


def _one_of_batch(followed: Followed, weight: Weight) -> Weight:
    """A weight without the dimension along which a batched product repeats it."""
    first = weight.coordinates[0]
    if first.dim() < 3 or any(varies(c, 0) for c in weight.coordinates):
        return weight
    once = tuple(c[:1] for c in weight.coordinates)
    return Weight(weight.path, once)


def _product_of_weights(
    followed: Followed, left: Weight, right: Weight, shape: tuple[int, ...]
) -> Tensor:
    for own, other in ((left, right), (right, left)):
        followed.trace.taint(own.path, f"{own.path!r} is multiplied by {other.path!r}")
    return followed.units.fixed(1, f"they come out of {left.path!r} times {right.path!r}").expand(
        shape
    )


def _of_activations(followed: Followed, a: Tensor, b: Tensor) -> Tensor:
    """Labels of a product of two activations: a unit on both sides of a sum is one unit, an
    attention head for instance.
    """
    followed.units.tie(a, a[..., :1])
    followed.units.tie(b, b[..., :1, :])
    left, right = (followed.units.roots(x) for x in (a[..., :1], b[..., :1, :]))
    one_left, one_right = _single(left), _single(right)
    shape = (*a.shape[:-1], b.shape[-1])
    _count(followed, left.expand(shape), right.expand(shape), a.shape[-1])
    if one_left != one_right:
        # A map that all units of the other side go through, such as the weights of a lone
        # attention head.
        labels, shared = (right, left) if one_left else (left, right)
        followed.units.fix(
            shared, "all units of a product with another activation go through them"
        )
        return labels.expand(shape)
    followed.units.tie(left, right)
    return torch.where(left >= 0, left, right).expand(shape)


def _single(labels: Tensor) -> bool:
    return labels.numel() > 0 and bool((labels == labels.reshape(-1)[0]).all())


def _count(followed: Followed, left: Tensor, right: Tensor, terms: int) -> None:
    size = 1 + max(int(t.max()) for t in (left, right)) if left.numel() else 1
    # NONE is -1: shifted by one, a pair is one number.
    pairs, counts = loose((left + 1).reshape(-1) * (size + 1) + (right + 1).reshape(-1)).unique(
        return_counts=True
    )
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        followed.trace.products[pair // (size + 1) - 1, pair % (size + 1) - 1] += count * terms


def _convolution(followed: Followed, call: Call) -> None:
    x, kernel, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    weight = followed.weight(kernel)
    (out,) = call.outputs
    if weight is None:
        spatial = x if transposed else out
        followed.trace.products[NONE, NONE] += (
            spatial.shape[0] * spatial[0, 0].numel() * kernel.numel()
        )
        refuse(followed, call, " for a kernel that forward computes")
        return
    labels = followed.labels(x)
    channels = labels.movedim(1, 0).reshape(labels.shape[1], -1)
    of_channel = channels.amax(1)
    followed.units.tie(channels, of_channel[:, None])
    spatial = x if transposed else out
    followed.trace.count(weight, spatial.shape[0] * spatial[0, 0].numel())
    if groups == 1:
        border = transposed or any(call.args[4])
        values = x.movedim(1, 0).reshape(x.shape[1], -1).T
        _log_reader(followed, weight, 0 if transposed else 1, x, values, bias, border)
    made = _grouped(followed, weight, of_channel, groups, transposed, out.shape[1])
    made = made.reshape(1, -1, *(1,) * (out.dim() - 2)).expand(out.shape)
    followed.set(out, made if bias is None else joined(followed, [bias], made, dim=1))


def _grouped(
    followed: Followed,
    weight: Weight,
    of_channel: Tensor,
    groups: int,
    transposed: bool,
    outs: int,
) -> Tensor:
    """Labels of the channels that a convolution puts out; with groups a group is one unit, inputs
    and outputs.
    """
    if groups == 1:
        followed.trace.read(weight, 0 if transposed else 1, of_channel)
        made = followed.units.fresh(outs)
        followed.trace.own(weight, 1 if transposed else 0, made)
        return made
    of_group = of_channel.reshape(groups, -1)
    unit = of_group.amax(1)
    unit = torch.where(unit < 0, followed.units.fresh(groups), unit)
    followed.units.tie(of_group, unit[:, None])
    made = unit.repeat_interleave(outs // groups)
    followed.trace.own(
        weight, 0, unit.repeat_interleave(of_group.shape[1]) if transposed else made
    )
    return made


def joined(followed: Followed, tensors: list[Tensor], labels: Tensor, dim: int = -1) -> Tensor:
    """Labels, tied with those of vectors along a dimension of theirs."""
    for vector in tensors:
        others = followed.labels(vector)
        if vector.dim() == 1:
            others = others.reshape(
                [-1 if d == dim % labels.dim() else 1 for d in range(labels.dim())]
            )
        followed.units.tie(others, labels)
    return labels


def refuse(followed: Followed, call: Call, why: str = "") -> None:
    """Nothing that goes through this call can be removed."""
    operation = f"the operation {call.name!r}, which has no rule{why}"
    reason = f"they go through {operation}"
    for tensor in call.tensors():
        weight = followed.weight(tensor)
        if weight is not None:
            followed.trace.taint(weight.path, f"{weight.path!r} goes through {operation}")
        else:
            followed.units.fix(followed.labels(tensor), reason)
    for output in call.outputs:
        followed.set(
            output,
            followed.units.fixed(1, reason).reshape((1,) * output.dim()).expand(output.shape),
        )


def of_values(rule: Callable[[Followed, Call, Tensor], None]) -> Transfer:
    """A rule from one for the labels of the first argument, which refuses parameters."""

    def guarded(followed: Followed, call: Call) -> None:
        state = followed.value_of(call.args[0])
        if isinstance(state, Tensor):
            rule(followed, call, state)
        else:
            refuse(followed, call)

    return guarded


TRANSFERS: dict[str, Transfer] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "addbmm": refuse,
    "mv": _mv,
    "dot": refuse,
    "addmv": refuse,
    "linear": _linear,
    "convolution": _convolution,
    "_convolution": _convolution,
}
