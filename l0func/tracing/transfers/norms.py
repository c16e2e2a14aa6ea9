"""Normalisation layers: BatchNorm, GroupNorm, LayerNorm and RMSNorm keep their input's units.

A LayerNorm over the units is not exact any more when some are removed, so it keeps them all. A
norm over the dimensions inside each attention head keeps its scale, and heads can go.
BatchNorm stays exact, GroupNorm does for whole groups, and RMSNorm does if the removed units are
exactly zero where they are made.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.norm_states import note_weight
from l0func.tracing.step import Step, Transfer
from l0func.tracing.units import Units, largest, runs_over_units
from l0func.tracing.values import NormOutput, Weight
from l0func.tracing.written_norms import Eps, Powers, WrittenNorm


def channel_labels(step: Step, labels: Tensor) -> Tensor:
    """One label for each channel in ``(N, C, *)``, tied with all elements in that channel."""
    by_channel = labels.movedim(1, 0).flatten(1)
    of_channel = largest(by_channel, [1])
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
    scales = [tensor for tensor in call.args[2:4] if isinstance(tensor, Tensor)]
    reason = f"a normalisation, {call.name!r}, runs over them"
    _check_norm(step, labels, len(normalized_shape), scales, reason, None)
    step.set(call.outputs[0], labels)


def rms_norm(
    step: Step, x: Tensor, dims: int, weight: Tensor | None, eps: float | None, output: Tensor
) -> None:
    """Follow an RMSNorm over the last dimensions.

    This is not a ``Transfer``: the tracer catches ``rms_norm`` before torch splits it into ATen
    operations, so there is no ATen call.

    Args:
        step: The step.
        x: The input.
        dims: How many dimensions it averages over.
        weight: The scale; None if there is none.
        eps: The number that is added to the mean square; None for the smallest.
        output: The result.
    """
    labels = step.labels(x)
    scales = [] if weight is None else [weight]
    reason = "a normalisation, 'rms_norm' over several dimensions, runs over them"
    norm = None
    if dims == 1 and (weight is None or step.weight(weight) is not None):
        norm = WrittenNorm(labels, [labels.dim() - 1], reason, step.number, Powers(0.5, 0.5))
        norm.eps.append(Eps(eps, Powers(-1.0, -1.0)))
        note_weight(step, norm, weight)
    _check_norm(step, labels, dims, scales, reason, norm)
    step.set(output, labels)
    step.values.set_norm_state(output, None if norm is None else NormOutput(norm, norm.powers))


def _check_norm(
    step: Step,
    labels: Tensor,
    dims: int,
    scales: list[Tensor],
    reason: str,
    norm: WrittenNorm | None,
) -> None:
    """Check at the end whether a norm over the last dimensions runs over units or inside them."""
    found = [step.value_of(scale) for scale in scales]
    weights = [value for value in found if isinstance(value, Weight)]
    if len(weights) < len(scales):
        # A computed scale: its units are those of the input.
        for scale in scales:
            step.units.tie(step.labels(scale), labels)
    step.trace.check_at_end(_Norm(step, labels, dims, weights, reason, norm))


class _Norm(NamedTuple):
    """A norm over the last dimensions.

    Attributes:
        step: The step.
        labels: The labels of its input.
        dims: How many dimensions it runs over.
        weights: The parameters that scale and shift its output.
        reason: Why units that it runs over cannot be removed.
        norm: The record of an RMSNorm: it stays exact without units that are zero.
    """

    step: Step
    labels: Tensor
    dims: int
    weights: list[Weight]
    reason: str
    norm: WrittenNorm | None

    def settle(self, units: Units) -> None:
        """Units that it runs over stay, or are normed; a norm inside units keeps its scale."""
        last = [self.labels.dim() - 1 - i for i in range(self.dims)]
        trace = self.step.trace
        over_units = runs_over_units(units, self.labels, last)
        if over_units and self.norm is not None:
            trace.add_norm(self.norm)
        elif over_units:
            self.step.fix(self.labels, self.reason)
        first = range(self.labels.dim() - self.dims)
        if over_units or not runs_over_units(units, self.labels, first):
            for weight in self.weights:
                units.tie(trace.elements(weight), self.labels)


_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm"
)

TRANSFERS: dict[str, Transfer] = {"native_group_norm": _group_norm}
TRANSFERS.update(dict.fromkeys(_BATCH_NORMS.split(), _batch_norm))
TRANSFERS.update(dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm))
