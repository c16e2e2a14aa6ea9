"""Groups that remove a network's own inputs: found by an experiment, for a message.

Nothing inside the network makes these units, so no slice is missing from the group. The smaller
network takes fewer inputs than the examples have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0func.compaction.removal import kept_slices
from l0func.internal.outputs import copied, visible_tensors
from l0func.pure.inputs import Inputs
from l0func.spec.plan import GateSpec

_DIMS = (-1, 1)
"""Features are counted by the last dimension; channels by the second."""


def removed_inputs(
    inputs: Inputs,
    spec: GateSpec,
    opens: Mapping[str, Tensor],
    is_right: Callable[[Inputs], bool],
) -> str:
    """Advice about a group that removes the network's own inputs; empty if no group does.

    Args:
        inputs: The examples, on which the smaller network failed.
        spec: The gate spec.
        opens: For each gate vector a bool tensor: True where the gate is open.
        is_right: Whether the smaller network computes the right output on narrower examples.
    """
    kept = kept_slices(spec, {name: opened.cpu() for name, opened in opens.items()})
    for path, of_tensor in kept.items():
        for weight_dim, keep in of_tensor.items():
            if any(_is_right_on(inputs, keep, dim, is_right) for dim in _DIMS):
                return _advice(path, weight_dim, keep, _group_of(spec, path, weight_dim))
    return ""


def _is_right_on(
    inputs: Inputs, keep: Tensor, dim: int, is_right: Callable[[Inputs], bool]
) -> bool:
    tensors = visible_tensors((inputs.args, inputs.kwargs))
    if not any(_has_features(tensor, keep, dim) for tensor in tensors):
        return False
    args, kwargs = copied(partial(_narrowed, keep, dim), (inputs.args, inputs.kwargs))
    try:
        return is_right(inputs._replace(args=args, kwargs=kwargs))
    except Exception:
        # A forward of unknown code may raise anything when its sizes change.
        return False


def _has_features(tensor: Tensor, keep: Tensor, dim: int) -> bool:
    # Integers are names of rows, or a mask: no weight multiplies them.
    return tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[dim] == len(keep)


def _narrowed(keep: Tensor, dim: int, tensor: Tensor) -> Tensor:
    if not _has_features(tensor, keep, dim):
        return tensor.clone()
    indices: Any = keep.nonzero().flatten().to(tensor.device)
    return torch.index_select(tensor, dim, indices)


def _group_of(spec: GateSpec, path: str, dim: int) -> str:
    """The gate vector that removes slices of a tensor along a dimension."""
    groups = {name for name, _ in spec.attrs}
    for p in (*spec.parameters, *spec.buffers):
        for binding in p.bindings if p.path == path else ():
            own: int | None = getattr(binding.rule, "dim", None)
            if binding.gate in groups and own is not None and own % len(p.shape) == dim:
                return binding.gate
    raise AssertionError("no group removes these slices")


def _advice(path: str, dim: int, keep: Tensor, group: str) -> str:
    return (
        f"The group {group!r} removes slices of {path!r} that read the network's own inputs: it "
        f"would take {int(keep.sum())} of {len(keep)} inputs. To keep all inputs and close those "
        f"gates with zeros, give the rule {{{path!r}: l0func.axis({dim})}} in place of the group; "
        "for a network that takes the open ones alone, call compact without example_inputs."
    )
