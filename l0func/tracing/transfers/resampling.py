"""Pooling, upsampling and non-constant padding: each channel is resampled by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.refusal import of_values
from l0func.tracing.units import varies


def _spatial(dims: int) -> Transfer:
    """The transfer function for operations that resample the last ``dims`` dimensions."""

    @of_values
    def transfer(step: Step, call: Call, labels: Tensor) -> None:
        last = [d for d in range(-dims, 0) if not _keeps(call, d)]
        if any(varies(labels, d) for d in last):
            step.fix(labels, f"the operation {call.name!r} runs over them")
        for d in last:
            labels = labels.narrow(d, 0, 1)
        step.set_all(call.outputs, labels)

    return transfer


def _keeps(call: Call, dim: int) -> bool:
    """Whether the operation leaves a dimension as it is: each output has one input there."""
    source: Tensor = call.args[0]
    if source.shape[dim] != call.outputs[0].shape[dim]:
        return False
    if "pad" in call.name:
        # Two pads for each dimension, the last dimension first; without them the size differs.
        before, after = call.args[1][-2 * dim - 2], call.args[1][-2 * dim - 1]
        return before == after == 0
    if call.takes("kernel_size"):
        return _at(call.argument("kernel_size"), dim) == 1
    # Adaptive pooling and upsampling to the same size.
    return True


def _at(sizes: Sequence[int], dim: int) -> int:
    """The size for a dimension, counted from the last; one size may stand for all."""
    return sizes[0] if len(sizes) == 1 else sizes[dim]


_BY_RANK = (
    "max_pool{d}d_with_indices max_pool{d}d avg_pool{d}d _adaptive_avg_pool{d}d "
    "adaptive_avg_pool{d}d adaptive_max_pool{d}d reflection_pad{d}d replication_pad{d}d "
    "upsample_nearest{d}d _upsample_nearest_exact{d}d max_unpool{d}d"
)
_SMOOTH = {
    1: "upsample_linear1d",
    2: "upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa",
    3: "upsample_trilinear3d",
}

TRANSFERS: dict[str, Transfer] = {}
for _dims, _names in _SMOOTH.items():
    _all_names = f"{_BY_RANK.format(d=_dims)} {_names}"
    TRANSFERS.update(dict.fromkeys(_all_names.split(), _spatial(_dims)))
