"""Patches of images, and sampling at points: a channel is a unit in every place."""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.norms import channel_labels
from l0func.tracing.transfers.refusal import of_values
from l0func.tracing.units import INPUT


@of_values
def _unfolded(step: Step, call: Call, labels: Tensor) -> None:
    """``F.unfold``: a run of columns for each channel."""
    (output,) = call.outputs
    channel_dim = labels.dim() - 3
    batched = labels if channel_dim else labels[None]
    of_channel = channel_labels(step, batched)
    run = output.shape[channel_dim] // len(of_channel)
    columns = of_channel.repeat_interleave(run)
    step.set(output, columns[:, None].expand(output.shape))


@of_values
def _folded_back(step: Step, call: Call, labels: Tensor) -> None:
    """``F.fold``: all columns of a channel's run are of one unit."""
    (output,) = call.outputs
    batched = labels if labels.dim() == 3 else labels[None]
    channels = output.shape[output.dim() - 3]
    rows, run, places = len(batched), batched.shape[1] // channels, batched.shape[2]
    columns = batched.reshape(rows, channels, run * places)
    of_channel = channel_labels(step, columns)
    step.set(output, of_channel[:, None, None].expand(output.shape))


@of_values
def _sampled(step: Step, call: Call, labels: Tensor) -> None:
    """``F.grid_sample``: units cannot be points, since all channels are sampled there."""
    points = step.labels(call.args[1])
    reason = f"the operation {call.name!r} samples all channels at them"
    step.fix(points[points != INPUT], reason)
    of_channel = channel_labels(step, labels)
    places = (1,) * (labels.dim() - 2)
    step.set(call.outputs[0], of_channel.reshape(-1, *places).expand(call.outputs[0].shape))


TRANSFERS: dict[str, Transfer] = {"im2col": _unfolded, "col2im": _folded_back}
TRANSFERS.update(dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), _sampled))
