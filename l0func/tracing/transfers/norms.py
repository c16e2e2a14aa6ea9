"""Normalisation layers: BatchNorm, GroupNorm, LayerNorm and RMSNorm keep their input's units.

A LayerNorm over the units is not exact any more when some are removed, so it keeps them all.
BatchNorm stays exact, GroupNorm does for whole groups, and RMSNorm does if the removed units are
exactly zero where they are made.
"""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.units import varies


def channel_labels(step: Step, labels: Tensor) -> Tensor:
    """One label for each channel in ``(N, C, *)``, tied with all elements in that channel."""
    by_channel = labels.movedim(1, 0).reshape(labels.shape[1], -1)
    of_channel = by_channel.amax(1)
    step.units.tie(by_channel, of_channel[:, None])
    return of_channel


def _batch_norm(step: Step, call: Call) -> None:
    labels = step.labels(call.args[0])
    of_channel = channel_labels(step, labels)
    # Weight, bias and the running statistics.
    vectors = [t for t in call.args[1:5] if isinstance(t, Tensor)]
    step.tie_vectors(vectors, of_channel, dim=0)
    step.set(call.outputs[0], labels)


def _group_norm(step: Step, call: Call) -> None:
    x, weight, bias, _, channels, _, groups = call.args[:7]
    labels = step.labels(x)
    of_channel = channel_labels(step, labels)
    if groups == 1:
        reason = "a normalisation, 'native_group_norm' with one group, runs over them"
        step.fix(of_channel, reason)
    by_group = of_channel.reshape(groups, channels // groups)
    step.units.tie(by_group, by_group.amax(1, keepdim=True))
    vectors = [t for t in (weight, bias) if t is not None]
    step.tie_vectors(vectors, of_channel, dim=0)
    step.set(call.outputs[0], labels)


def _layer_norm(step: Step, call: Call) -> None:
    x, normalized_shape = call.args[:2]
    labels = step.labels(x)
    if _varies_over_last(labels, len(normalized_shape)):
        step.fix(labels, f"a normalisation, {call.name!r}, runs over them")
    for tensor in call.args[2:4]:
        if isinstance(tensor, Tensor):
            step.units.tie(step.labels(tensor), labels)
    step.set(call.outputs[0], labels)


def rms_norm(step: Step, x: Tensor, dims: int, weight: Tensor | None, output: Tensor) -> None:
    """Follow an RMSNorm over the last dimensions.

    This is not a ``Transfer``: the tracer catches ``rms_norm`` before torch splits it into ATen
    operations, so there is no ATen call.

    Args:
        step: The step.
        x: The input.
        dims: How many dimensions it averages over.
        weight: The scale; None if there is none.
        output: The result.
    """
    labels = step.labels(x)
    of_weight = step.weight(weight)
    if dims == 1 and varies(labels, -1) and of_weight is not None:
        step.trace.normed.append(labels)
        step.trace.norm_weights.add(of_weight.path)
    elif _varies_over_last(labels, dims):
        reason = "a normalisation, 'rms_norm' without a weight of one dimension, runs over them"
        step.fix(labels, reason)
    if weight is not None:
        step.units.tie(step.labels(weight), labels)
    step.set(output, labels)


def _varies_over_last(labels: Tensor, dims: int) -> bool:
    return any(varies(labels, -1 - i) for i in range(dims))


_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm"
)

TRANSFERS: dict[str, Transfer] = {"native_group_norm": _group_norm}
TRANSFERS.update(dict.fromkeys(_BATCH_NORMS.split(), _batch_norm))
TRANSFERS.update(dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm))
