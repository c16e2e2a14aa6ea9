"""Convolutions, plain, grouped and transposed: a unit is a channel, or a channel group."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.norms import channel_labels
from l0func.tracing.transfers.refusal import refuse
from l0func.tracing.units import varies
from l0func.tracing.values import Weight


class _Kernel(NamedTuple):
    """A convolution's kernel, and the settings that its units depend on."""

    weight: Weight
    transposed: bool
    groups: int

    @property
    def input_dim(self) -> int:
        """The input channels' dimension, where there are no groups."""
        return 0 if self.transposed else 1

    @property
    def output_dim(self) -> int:
        """The output channels' dimension, where there are no groups."""
        return 1 if self.transposed else 0


def _convolution(step: Step, call: Call) -> None:
    x, tensor, bias = call.args[:3]
    padding = call.args[4]
    transposed = call.args[6]
    groups = call.args[8]
    (output,) = call.outputs
    weight = step.weight(tensor)
    if weight is None:
        refuse(step, call, " with a kernel that forward computes")
        return
    step.trace.count(weight, _output_positions(x if transposed else output))
    kernel = _Kernel(weight, transposed, groups)
    border = transposed or any(padding)
    if _is_shared_depthwise(step, x, output, groups):
        # Heads lie along the batch: one kernel serves all of them, and stays.
        step.set(output, _resampled(step.labels(x), output))
        return
    made = _output_labels(step, kernel, x, bias, border, output.shape[1])
    spatial = (1,) * (output.dim() - 2)
    labels = made.reshape(-1, *spatial).expand(output.shape)
    if bias is not None:
        step.tie_vectors([bias], labels, dim=1)
    step.set(output, labels)


def _is_shared_depthwise(step: Step, x: Tensor, output: Tensor, groups: int) -> bool:
    """Whether every channel is convolved by itself, for units that lie along the batch."""
    is_depthwise = groups == x.shape[1] == output.shape[1]
    labels = step.labels(x)
    along_places = any(varies(labels, d) for d in range(2, labels.dim()))
    return is_depthwise and varies(labels, 0) and not along_places


def _resampled(labels: Tensor, output: Tensor) -> Tensor:
    """Labels for other places of the same channels."""
    for d in range(2, labels.dim()):
        labels = labels.narrow(d, 0, 1)
    return labels.expand(output.shape)


def _output_positions(tensor: Tensor) -> int:
    """How many places, in all images together, the kernel is applied to."""
    return tensor.shape[0] * prod(tensor.shape[2:])


def _output_labels(
    step: Step, kernel: _Kernel, x: Tensor, bias: Tensor | None, border: bool, channels: int
) -> Tensor:
    """Labels for the output channels; with groups a group's inputs and outputs are one unit."""
    of_channel = channel_labels(step, step.labels(x))
    if kernel.groups > 1:
        return _grouped(step, kernel, of_channel, channels)
    values = x.movedim(1, 0).flatten(1).T
    step.log_reader(kernel.weight, kernel.input_dim, x, values, bias, border)
    step.read(kernel.weight, kernel.input_dim, of_channel)
    made = step.units.fresh(channels)
    step.own(kernel.weight, kernel.output_dim, made)
    return made


def _grouped(step: Step, kernel: _Kernel, of_channel: Tensor, channels: int) -> Tensor:
    by_group = of_channel.reshape(kernel.groups, -1)
    largest = by_group.amax(1)
    unit = torch.where(largest < 0, step.units.fresh(kernel.groups), largest)
    step.units.tie(by_group, unit[:, None])
    made = unit.repeat_interleave(channels // kernel.groups)
    # The first dimension has all input channels if transposed, else all output channels.
    first = unit.repeat_interleave(by_group.shape[1]) if kernel.transposed else made
    step.own(kernel.weight, 0, first)
    return made


TRANSFERS: dict[str, Transfer] = dict.fromkeys(("convolution", "_convolution"), _convolution)
