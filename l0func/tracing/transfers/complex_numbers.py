"""Complex numbers: the two parts of each are of one unit; Fourier transforms mix along dimensions.

Rotary embeddings are often products of complex numbers.
"""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.refusal import of_values


@of_values
def _as_complex(step: Step, call: Call, labels: Tensor) -> None:
    """Pairs of numbers as complex ones."""
    step.units.tie(labels[..., 0], labels[..., 1])
    step.set(call.outputs[0], labels[..., 0])


@of_values
def _as_real(step: Step, call: Call, labels: Tensor) -> None:
    """Complex numbers as pairs."""
    step.set(call.outputs[0], labels.unsqueeze(-1).expand(call.outputs[0].shape))


@of_values
def _conjugated(step: Step, call: Call, labels: Tensor) -> None:
    step.set(call.outputs[0], labels)


@of_values
def _transformed(step: Step, call: Call, labels: Tensor) -> None:
    """A Fourier transform: each element depends on all others along its dimensions."""
    dims = [d % labels.dim() for d in call.args[1]]
    step.check_runs_inside_units(labels, dims, f"the operation {call.name!r} runs over them")
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    step.set(call.outputs[0], labels.expand(call.outputs[0].shape))


TRANSFERS: dict[str, Transfer] = {"view_as_complex": _as_complex, "view_as_real": _as_real}
# The imaginary part of a conjugate is a view whose numbers are negated; its labels are not.
TRANSFERS.update(dict.fromkeys(("_conj", "_neg_view"), _conjugated))
TRANSFERS.update(dict.fromkeys(("_fft_c2c", "_fft_r2c", "_fft_c2r"), _transformed))
