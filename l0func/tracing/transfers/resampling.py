"""Pooling, upsampling and non-constant padding: each channel is resampled by itself."""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.refusal import of_values
from l0func.tracing.units import varies


def _spatial(dims: int) -> Transfer:
    """The transfer function for operations that resample the last ``dims`` dimensions."""

    @of_values
    def transfer(step: Step, call: Call, labels: Tensor) -> None:
        last = range(-dims, 0)
        if any(varies(labels, d) for d in last):
            step.fix(labels, f"the operation {call.name!r} runs over them")
        for d in last:
            labels = labels.narrow(d, 0, 1)
        step.set_all(call.outputs, labels)

    return transfer


_BY_RANK = (
    "max_pool{d}d_with_indices max_pool{d}d avg_pool{d}d _adaptive_avg_pool{d}d "
    "adaptive_avg_pool{d}d adaptive_max_pool{d}d reflection_pad{d}d replication_pad{d}d "
    "upsample_nearest{d}d _upsample_nearest_exact{d}d"
)
_SMOOTH = {
    1: "upsample_linear1d",
    2: "upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d",
    3: "upsample_trilinear3d",
}

TRANSFERS: dict[str, Transfer] = {}
for _dims, _names in _SMOOTH.items():
    _all_names = f"{_BY_RANK.format(d=_dims)} {_names}"
    TRANSFERS.update(dict.fromkeys(_all_names.split(), _spatial(_dims)))
