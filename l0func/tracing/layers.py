"""Layers that keep the units of their input: normalisation, pooling; and lookups, which make
units.
"""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call, Followed, Transfer
from l0func.tracing.products import joined, of_values, refuse
from l0func.tracing.units import varies


def _channel_labels(followed: Followed, labels: Tensor) -> Tensor:
    """Labels of ``(N, C, *)`` by channel, made one along all other dimensions."""
    by_channel = labels.movedim(1, 0).reshape(labels.shape[1], -1)
    first = by_channel.amax(1)
    followed.units.tie(by_channel, first[:, None])
    return first


def _batch_norm(followed: Followed, call: Call) -> None:
    x = call.args[0]
    labels = followed.labels(x)
    first = _channel_labels(followed, labels)
    vectors = [t for t in call.args[1:5] if isinstance(t, Tensor)]
    joined(followed, vectors, first, dim=0)
    followed.set(call.outputs[0], labels)


def _group_norm(followed: Followed, call: Call) -> None:
    x, weight, bias, _, channels, _, groups = call.args[:7]
    labels = followed.labels(x)
    first = _channel_labels(followed, labels)
    of_group = first.reshape(groups, channels // groups)
    if groups == 1:
        followed.units.fix(
            first, "a normalisation, 'native_group_norm' with one group, runs over them"
        )
    followed.units.tie(of_group, of_group.amax(1, keepdim=True))
    joined(followed, [t for t in (weight, bias) if t is not None], first, dim=0)
    followed.set(call.outputs[0], labels)


def _layer_norm(followed: Followed, call: Call) -> None:
    x, shape, vectors = call.args[0], call.args[1], call.args[2:4]
    labels = followed.labels(x)
    if any(varies(labels, labels.dim() - 1 - i) for i in range(len(shape))):
        followed.units.fix(labels, f"a normalisation, {call.name!r}, runs over them")
    for vector in vectors:
        if isinstance(vector, Tensor):
            followed.units.tie(followed.labels(vector), labels)
    followed.set(call.outputs[0], labels)


def rms_norm(followed: Followed, x: Tensor, dims: int, weight: Tensor | None, out: Tensor) -> None:
    """The rule of an RMSNorm over the last dimensions, which is called by a function of its own."""
    labels = followed.labels(x)
    of_weight = followed.weight(weight)
    if varies(labels, labels.dim() - 1) and dims == 1 and of_weight is not None:
        followed.trace.normed.append(labels)
        followed.trace.norms.add(of_weight.path)
    elif any(varies(labels, labels.dim() - 1 - i) for i in range(dims)):
        followed.units.fix(
            labels, "a normalisation, 'rms_norm' without a weight of one dimension, runs over them"
        )
    if weight is not None:
        followed.units.tie(followed.labels(weight), labels)
    followed.set(out, labels)


def _lookup(followed: Followed, call: Call) -> None:
    table, out = call.args[0], call.outputs[0]
    weight = followed.weight(table)
    if weight is None or table.dim() != 2:
        refuse(followed, call)
        return
    made = followed.units.fresh(table.shape[1])
    followed.trace.own(weight, 1, made)
    followed.set(out, made.expand(out.shape))


def _spatial(dims: int) -> Transfer:
    """The rule of an operation that resamples the last ``dims`` dimensions of each channel."""

    @of_values
    def rule(followed: Followed, call: Call, labels: Tensor) -> None:
        rank = labels.dim()
        if any(varies(labels, d) for d in range(rank - dims, rank)):
            followed.units.fix(labels, f"the operation {call.name!r} runs over them")
        one = labels[(..., *(slice(0, 1),) * dims)]
        for output in call.outputs:
            followed.set(output, one.expand(output.shape))

    return rule


_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_batch_norm_with_update "
    "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm"
)
_RESAMPLING = (
    "max_pool{d}d_with_indices max_pool{d}d avg_pool{d}d _adaptive_avg_pool{d}d "
    "adaptive_avg_pool{d}d adaptive_max_pool{d}d "
    "reflection_pad{d}d replication_pad{d}d upsample_nearest{d}d _upsample_nearest_exact{d}d"
)
_UPSAMPLING = {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
}

TRANSFERS: dict[str, Transfer] = {
    **dict.fromkeys(_BATCH_NORMS.split(), _batch_norm),
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "embedding": _lookup,
    **{name: _spatial(d) for d in (1, 2, 3) for name in _RESAMPLING.format(d=d).split()},
    **{name: _spatial(d) for name, d in _UPSAMPLING.items()},
    "upsample_trilinear3d": _spatial(3),
}
