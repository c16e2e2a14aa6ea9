"""Operations along dimensions: sums, means and maxima, softmax, sort and running sums.

They stay exact without some units only if the units lie along other dimensions, or if all elements
that they run over belong to one unit, such as an attention head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.norm_states import begin_norm
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.refusal import of_values
from l0func.tracing.units import largest, varies


@of_values
def _reduced(step: Step, call: Call, labels: Tensor) -> None:
    """A sum, mean, maximum or the like over dimensions."""
    dims = _dimensions(call, labels.dim())
    keep = bool(call.argument("keepdim", False))
    reason = f"the operation {call.name!r} runs over them"
    if _may_norm(call, labels, dims):
        begin_norm(step, labels, dims, reason, call)
    else:
        step.check_runs_inside_units(labels, dims, reason)
    left = largest(labels, dims, keep) if dims else labels
    step.set_all(call.outputs, left)


def _may_norm(call: Call, labels: Tensor, dims: Sequence[int]) -> bool:
    """Whether a reduction over units may be the statistic of a norm: zeros add nothing to it."""
    order = call.argument("ord", call.argument("p", 2))
    is_sum = call.name in _SUMS and (order is None or float(order) > 0)
    return is_sum and any(varies(labels, d) for d in dims)


@of_values
def _mixed(step: Step, call: Call, labels: Tensor) -> None:
    """A softmax, a sort, a running sum: each element depends on all others along a dimension."""
    dims = _dimensions(call, labels.dim())
    step.check_runs_inside_units(labels, dims, f"the operation {call.name!r} runs over them")
    for output in call.outputs:
        # topk and kthvalue return fewer elements along the dimension; kthvalue may drop it.
        left = labels
        if output.dim() < labels.dim():
            left = labels.select(dims[0], 0)
        elif output.shape != labels.shape:
            left = labels.narrow(dims[0], 0, 1)
        step.set_all([output], left)


def _dimensions(call: Call, rank: int) -> list[int]:
    """The dimensions that the operation runs over, as numbers from 0."""
    given = call.argument("dim")
    if given is None or given == []:
        return _default_dimensions(call, rank)
    dims: list[int] = [given] if isinstance(given, int) else list(given)
    return [d % rank for d in dims] if rank else []


def _default_dimensions(call: Call, rank: int) -> list[int]:
    dims = list(range(rank))
    return dims[-1:] if call.name in _OVER_LAST else dims


# They run over the last dimension by default; other reductions run over all.
_OVER_LAST = frozenset({"topk", "sort", "kthvalue", "mode"})
_SUMS = frozenset({"sum", "mean", "linalg_vector_norm", "norm"})
_REDUCED = (
    "sum mean amax amin max min var std var_mean std_mean prod argmax argmin any all logsumexp "
    "linalg_vector_norm norm median mode count_nonzero aminmax nansum"
)
_MIXED = (
    "_softmax _log_softmax _safe_softmax softmax cumsum cumprod cummax cummin logcumsumexp sort "
    "topk kthvalue"
)

TRANSFERS: dict[str, Transfer] = {}
TRANSFERS.update(dict.fromkeys(_REDUCED.split(), _reduced))
TRANSFERS.update(dict.fromkeys(_MIXED.split(), _mixed))
